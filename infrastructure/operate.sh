# What deploy.sh does while the demo runs: status, verify, key, logs, dead-letters, redrive and metric-stream.
# It uses deploy.sh's steps and what checks.sh has found.
# shellcheck shell=bash
# shellcheck disable=SC2034 # checks.sh uses what is set here

status() {
  local found running wanted rollout state
  say "$AWS_REGION of account $ACCOUNT_ID"
  [ -z "$FOREIGN" ] || wrong "${FOREIGN#, } was made by somebody else"
  if [ -z "$STACK$SERVICE$FUNCTION" ]; then say 'nothing is deployed'; return; fi
  row stack "${STACK:-none}"
  [ "$STACK" = CREATE_COMPLETE ] || [ "$STACK" = UPDATE_COMPLETE ] || wrong "the stack is not complete: run up again"
  row key "${KEY_IS_SET:-none}"
  [ -n "$KEY_IS_SET" ] || wrong 'there is no Coralogix key: run key'
  row function "${FUNCTION_IMAGE##*/} ${FUNCTION:-none}"
  if [ -n "$FUNCTION" ]; then
    found=$(function_state)
    [[ $found == Active$'\t'Successful* ]] || wrong "the function is $found"
  fi
  state=''
  [ -z "$MAPPING" ] || state=$(mapping_state)
  row mapping "${state:-none}"
  [ "$state" = Enabled ] || wrong 'the function is not called: its event source mapping is not enabled'
  row 'metric stream' "${METRIC_STREAM:-none}"
  if [ -n "$SERVICE" ]; then
    found=$(service "[runningCount, desiredCount, $PRIMARY.rolloutState, $PRIMARY.rolloutStateReason]")
    IFS=$'\t' read -r running wanted rollout state <<< "$found"
    row service "${SERVICE_TASK##*/} $rollout, $running of $wanted tasks run"
    [ "$SERVICE_TASK" = "$TASK_DEFINITION_ARN" ] || wrong "the service was rolled back: ${TASK_DEFINITION_ARN##*/} is newer"
    if [ "$running $rollout" != "$wanted COMPLETED" ]; then wrong "the service: $state"; explain_service; fi
    found=$(addresses)
    for found in $found; do
      row API "http://$found:8000 for $API_CLIENTS"
      say "  curl -X POST http://$found:8000/telemetry/smoke -H 'Content-Type: application/json' -d '{\"customer_id\":\"TEST-001\"}'"
      say "  ./generate-sustained-traffic.sh $found 600 1"
    done
  fi
  [ -z "$WRONG" ] || exit 3
}

row() { printf '%-14s %s\n' "$1" "$2"; }
wrong() { WRONG=yes; say "wrong: $1"; }

verify() {
  local address response trace found
  step 'a request to the API'
  address=$(addresses)
  address=${address%%[[:space:]]*}
  [ -n "$address" ] || fail "no task runs: 'status' says more"
  SINCE=$(date +%s)000
  response=$(curl -fsS -m 10 -X POST "http://$address:8000/telemetry/smoke" -H 'Content-Type: application/json' \
    -d '{"customer_id":"TEST-001"}') || fail "the API at $address does not respond. It is open to $API_CLIENTS and this \
machine has $(own_address): CLIENT_CIDR and up change that"
  say "$response"
  trace=$(sed -n 's/.*"trace_id": *"\([0-9a-f]\{32\}\)".*/\1/p' <<< "$response")
  [ -n "$trace" ] || fail 'the response has no trace_id'
  step 'its trace in the log of the API'
  show 2 /ecs/cal-onboarding-api "\"PRODUCER trace_id=$trace\""
  step 'the same trace in the log of the function'
  show 5 /aws/lambda/cal-onboarding-lambda "\"extracted traceparent 00-$trace\""
  step 'the flush of that invocation'
  show 2 /aws/lambda/cal-onboarding-lambda '"Flush "' --log-stream-names "${SEEN%%$'\t'*}"
  [[ $SEEN == *'Flush complete'* ]] || fail 'the function could not send its spans to the Collector'
  step 'what the Collector says of Coralogix'
  sleep 20
  found=$(logged /ecs/cal-otel-collector \
    '?Unauthenticated ?PermissionDenied ?"Exporting failed" ?"no children to pick from" ?"non-printable ASCII"')
  [ -z "$found" ] || fail "the Collector says: $found"
  say "no refusal in 20 s. One trace went through both programs; see it in Coralogix, in Explore, Tracing, with the filter
  service.name:(\"onboarding-api\" OR \"onboarding-lambda\") and the trace id $trace"
}

show() { # MINUTES GROUP PATTERN [OPTION...]; waits for a line, shows it, and leaves it in SEEN
  local minutes=$1
  shift
  wait_for "$minutes" "a line in $1" '.+' logged "$@"
  say "${SEEN#*$'\t'}"
}

key() {
  read_key
  put_key
  [ "$SERVICE" = ACTIVE ] || return 0
  step 'a new deployment of the service: a task reads the key when it starts'
  DEPLOYMENT=$(aws ecs update-service --cluster cal-onboarding --service onboarding-api --force-new-deployment \
    --query "service.$PRIMARY.id")
  TASK_DEFINITION_ARN=$SERVICE_TASK
  wait_for_service
}

logs() { # [SINCE]
  local group
  for group in /ecs/cal-onboarding-api /aws/lambda/cal-onboarding-lambda /ecs/cal-otel-collector; do
    say "== $group"
    aws logs tail "$group" --since "${1:-5m}"
  done
}

dead_letters() { # without waiting, SQS asks only some of its servers
  aws sqs receive-message --queue-url "$DEAD_LETTER_QUEUE_URL" --wait-time-seconds 10 --visibility-timeout 0 \
    --max-number-of-messages 10 --message-attribute-names All --attribute-names All --output json
}

redrive() {
  aws sqs start-message-move-task --source-arn "$DEAD_LETTER_QUEUE_ARN"
  say 'The messages go back to cal-onboarding-queue. Each goes on in its trace, but SQS gives it a new message id.'
}

metric_stream() {
  aws cloudwatch put-metric-stream --name cal-onboarding --include-filters Namespace=AWS/Lambda \
    --firehose-arn "$FIREHOSE_ARN" --role-arn "$METRIC_STREAM_ROLE_ARN" --output-format opentelemetry0.7 \
    --tags "Key=deployer,Value=$OWNER"
}
