#!/usr/bin/env bash
# Deploys this demo to AWS, looks after it and removes it. Usage: infrastructure/deploy.sh COMMAND
#
#   up             deploy everything, from an empty account to a running API; again: only what has changed
#   status         show what exists, what runs, at which version and address, and what is wrong
#   verify         send one request and follow it through the logs of the API, the function and the Collector
#   key            replace the Coralogix key, from the keyboard or a pipe, and restart the tasks so that it counts
#   logs [SINCE]   show the logs of the last 5m, or of another time such as 1h
#   dead-letters   show what is in the dead-letter queue; this hides and removes nothing
#   redrive        move the dead letters back to their queue
#   metric-stream  stream CloudWatch's metrics of Lambda to Coralogix, for its Serverless Catalog
#   down [--yes]   remove everything that up and metric-stream made, and nothing else
#
# Variables; with a *, what is deployed stays as it is when the variable is not set:
#   AWS_REGION                     for every command
#   CORALOGIX_DOMAIN               for up, such as us2.coralogix.com
#   IMAGE_TAG                      for up, the version of everything; after any change of code set a new one
#   ARCH                           for up, amd64 (default) or arm64: of images, function and task alike
#   CLIENT_CIDR *                  who may call the API, at first this machine's public address
#   DESIRED_COUNT *                how many tasks, at first 1
#   VPC_ID, SUBNET_A, SUBNET_B *   at first the default VPC and two of its subnets
#   ALARM_TOPIC_ARN *              an SNS topic that hears of dead letters, at first none
#   FIREHOSE_ARN, METRIC_STREAM_ROLE_ARN   for metric-stream, as Coralogix's AWS integration makes them

# shellcheck disable=SC2016,SC2034 # ${NAME} is in the files that render() reads, and so are the variables it sets
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=infrastructure/checks.sh
. infrastructure/checks.sh
# shellcheck source=infrastructure/operate.sh
. infrastructure/operate.sh

STEP='checking variables and tools' MADE='' KEY='' WRONG=''

main() {
  local command=${1:-help}
  case "$command $#" in
    up\ 1 | status\ 1 | verify\ 1 | key\ 1 | logs\ [12] | dead-letters\ 1 | redrive\ 1 | metric-stream\ 1 | down\ 1) ;;
    help\ * | -h\ * | --help\ *) sed -n '1d; /^#/!q; s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; return ;;
    *) [ "$*" = 'down --yes' ] || usage "'$*' is not a command" ;;
  esac
  umask 077 # what is rendered may have a key in it
  WORK=$(mktemp -d)
  trap 'ended $? '"$command" EXIT
  check_variables "$command"
  check_tools "$command"
  look_around "$command"
  [ "$command" = status ] || [ -z "$FOREIGN" ] ||
    fail "${FOREIGN#, } in $AWS_REGION of account $ACCOUNT_ID was made by somebody else (no tag deployer=$OWNER). \
Rename or remove it, or use another region or account"
  case $command in
    up | status | down) ;;
    *) [ -n "$STACK_OUTPUT" ] || fail "nothing is deployed in $AWS_REGION of account $ACCOUNT_ID: is AWS_REGION right?" ;;
  esac
  STEP=$command
  shift
  "${command//-/_}" "$@"
}

step() { STEP=$1 MADE=yes; say "== $1"; }

ended() { # STATUS COMMAND
  local hint='Nothing was changed.'
  rm -rf "$WORK"
  case $1 in 0 | 2 | 3) return ;; esac
  [ -z "$MADE" ] || hint='Run it again: it goes on where it was.'
  say "deploy.sh: $2 stopped at: $STEP. $hint" >&2
  exit 1
}

# --- up: the foundation, then the four steps of the README -----------------------------------------------------------

up() {
  find_network
  CLIENT_CIDR=${CLIENT_CIDR:-${API_CLIENTS:-$(own_address)/32}}
  [ -n "$KEY_IS_SET" ] || read_key
  deploy_foundation
  [ -z "$KEY" ] || put_key
  publish cal-onboarding-api onboarding-api/Dockerfile
  publish cal-otel-collector otel/Dockerfile
  register_task
  create_service
  publish cal-onboarding-lambda onboarding-lambda/Dockerfile
  create_function
  configure_function
  map_queue
  wait_for_service
  say "Version $IMAGE_TAG is deployed. 'verify' follows a request through it, 'status' shows how to send your own."
}

deploy_foundation() {
  step 'the foundation, infrastructure/foundation.yaml'
  case $STACK in ROLLBACK_* | DELETE_FAILED) remove_stack ;; esac # neither can be updated
  if ! deploy_stack; then
    explain_stack
    [[ $SEEN == *'wait 60 seconds'* ]] || fail 'the foundation could not be made (above)'
    say 'AWS keeps the name of a queue for a minute: waiting, and trying once more'
    remove_stack
    sleep 60
    deploy_stack || { explain_stack; fail 'the foundation could not be made (above)'; }
  fi
  STACK_OUTPUT=$(aws cloudformation describe-stacks --stack-name cal-onboarding --query 'Stacks[0].Outputs[0].OutputValue')
  set_placeholders
}

deploy_stack() {
  aws cloudformation deploy --stack-name cal-onboarding --template-file infrastructure/foundation.yaml \
    --capabilities CAPABILITY_IAM --no-fail-on-empty-changeset --tags "deployer=$OWNER" --parameter-overrides \
    "VpcId=$VPC_ID" "SubnetIds=$SUBNET_A,$SUBNET_B" "ClientCidr=$CLIENT_CIDR" \
    ${ALARM_TOPIC_ARN+"AlarmTopicArn=$ALARM_TOPIC_ARN"}
}

remove_stack() {
  aws cloudformation delete-stack --stack-name cal-onboarding
  wait_for 60 'the stack to be removed' '|DELETE_FAILED' stack_status
  [ -z "$SEEN" ] || { explain_stack; fail 'the stack could not be removed (above)'; }
}

read_key() { # it is on no command line, in no file and in no output
  [ ! -t 0 ] || printf 'Coralogix Send-Your-Data key (not shown): ' >&2
  IFS= read -rs KEY || true
  [ -n "$KEY" ] || fail 'the Coralogix key is empty: type it, or put it into a pipe in front of this command'
  case $KEY in *[![:graph:]]*) fail 'the Coralogix key has a space or a control character in it' ;; esac
}

put_key() {
  step 'the Coralogix key, secret cal-onboarding-coralogix-key'
  printf %s "$KEY" | aws secretsmanager put-secret-value --secret-id cal-onboarding-coralogix-key \
    --secret-string file:///dev/stdin > /dev/null
}

# Steps 1 and 2: build and push. Without the two options docker makes an image index, which Lambda refuses.
publish() { # REPOSITORY DOCKERFILE
  local image=$ECR_REPO/$1:$IMAGE_TAG-$ARCH found
  step "the image $1:$IMAGE_TAG-$ARCH"
  found=$(look_up ImageNotFound ecr describe-images --repository-name "$1" --image-ids "imageTag=$IMAGE_TAG-$ARCH" \
    --query 'imageDetails[0].imageDigest')
  if [ -n "$found" ]; then say exists; return; fi
  docker build --platform "linux/$ARCH" --provenance=false --sbom=false -t "$image" -f "$2" .
  aws ecr get-login-password | docker login --username AWS --password-stdin "$ECR_REPO"
  docker push "$image"
}

# Writes files of infrastructure/ to $WORK, with every ${NAME} replaced by the variable of that name.
render() { # FILE...
  local file text rest name
  for file in "$@"; do
    rest=$(cat "infrastructure/$file") text=''
    while [[ $rest == *'${'* ]]; do
      name=${rest#*'${'}
      name=${name%%'}'*}
      [ -n "${!name:-}" ] || fail "$name is not set, and infrastructure/$file needs it"
      case ${!name} in *[!A-Za-z0-9_.:/@%+=,-]*) fail "$name has a character that can't stand in infrastructure/$file" ;; esac
      text=$text${rest%%'${'*}${!name}
      rest=${rest#*'${'"$name"'}'}
    done
    say "$text$rest" > "$WORK/$file"
  done
}

content() { # FILE...; prints a checksum of rendered files, which the tag "content" of what was made of them keeps
  (cd "$WORK" && cat "$@") | cksum | tr ' ' -
}

# Step 1: register the task ...
register_task() {
  local content
  step 'the task definition cal-onboarding-api-demo, infrastructure/taskdef.json'
  render taskdef.json
  content=$(content taskdef.json)
  if [ "$TASK_CONTENT" = "$content" ]; then say unchanged; return; fi
  TASK_DEFINITION_ARN=$(aws ecs register-task-definition --cli-input-json "file://$WORK/taskdef.json" \
    --tags "key=deployer,value=$OWNER" "key=content,value=$content" --query taskDefinition.taskDefinitionArn)
}

# ... and create its service.
create_service() {
  local content arn
  step 'the service onboarding-api, infrastructure/service.json'
  render service.json
  content=$(content service.json)
  DESIRED_COUNT=${DESIRED_COUNT:-${SERVICE_COUNT:-1}}
  if [ "$SERVICE" = DRAINING ]; then # down was interrupted
    wait_for 15 'the former service to end' 'INACTIVE|None' service status
    SERVICE=''
  fi
  if [ -z "$SERVICE" ]; then
    aws ecs create-service --cli-input-json "file://$WORK/service.json" --desired-count "$DESIRED_COUNT" \
      --tags "key=deployer,value=$OWNER" "key=content,value=$content" > /dev/null
  elif [ "$SERVICE_CONTENT $SERVICE_TASK $SERVICE_COUNT" = "$content $TASK_DEFINITION_ARN $DESIRED_COUNT" ]; then
    say unchanged
  else
    sed -e 's/"serviceName"/"service"/' -e '/"launchType"/d' "$WORK/service.json" > "$WORK/update-service.json"
    arn=$(aws ecs update-service --cli-input-json "file://$WORK/update-service.json" --desired-count "$DESIRED_COUNT" \
      --query service.serviceArn)
    aws ecs tag-resource --resource-arn "$arn" --tags "key=content,value=$content"
  fi
  DEPLOYMENT=$(service "$PRIMARY.id")
}

# Steps 2 to 4 share a checksum, which is kept at the end: whatever interrupts them, all three are done again.
# Step 2: create the function.
create_function() {
  step 'the function cal-onboarding-lambda, infrastructure/lambda.json'
  render lambda.json lambda-environment.json event-source-mapping.json
  CONTENT=$(content lambda.json lambda-environment.json event-source-mapping.json)
  if [ "$FUNCTION" = Failed ]; then # it was never usable
    aws lambda delete-function --function-name cal-onboarding-lambda > /dev/null
    FUNCTION=''
  fi
  if [ -z "$FUNCTION" ]; then
    FUNCTION_CONTENT=''
    FUNCTION_ARN=$(aws lambda create-function --cli-input-json "file://$WORK/lambda.json" --tags "deployer=$OWNER" \
      --query FunctionArn)
  elif [ "$FUNCTION_CONTENT" = "$CONTENT" ]; then
    say unchanged
  else
    wait_for 10 'the function' "$FUNCTION_RESTS" function_state
    aws lambda update-function-code --function-name cal-onboarding-lambda --architectures "$LAMBDA_ARCHITECTURE" \
      --image-uri "$ECR_REPO/cal-onboarding-lambda:$IMAGE_TAG-$ARCH" > /dev/null
  fi
  wait_for_function
}

# Step 3: configure its environment variables. Those of the task are in its definition.
configure_function() {
  step 'the variables of the function, infrastructure/lambda-environment.json'
  if [ "$FUNCTION_CONTENT" = "$CONTENT" ]; then say unchanged; return; fi
  # Code and architecture have a command of their own. What this one prints may have a key in it.
  sed -e '/"PackageType"/d' -e '/"Code"/d' -e '/"Architectures"/d' "$WORK/lambda.json" > "$WORK/update-function.json"
  aws lambda update-function-configuration --cli-input-json "file://$WORK/update-function.json" \
    --environment "file://$WORK/lambda-environment.json" > /dev/null
  wait_for_function
}

# Step 4: map the queue to it.
map_queue() {
  step 'the event source mapping, infrastructure/event-source-mapping.json'
  if [ -n "$MAPPING" ]; then
    wait_for 10 'the event source mapping' 'Enabled|Disabled|' mapping_state
    [ -n "$SEEN" ] || MAPPING=''
  fi
  if [ -z "$MAPPING" ]; then
    MAPPING=$(aws lambda create-event-source-mapping --cli-input-json "file://$WORK/event-source-mapping.json" --query UUID)
  elif [ "$FUNCTION_CONTENT" = "$CONTENT" ]; then
    say unchanged
    return
  else
    sed '/"EventSourceArn"/d' "$WORK/event-source-mapping.json" > "$WORK/update-mapping.json"
    aws lambda update-event-source-mapping --uuid "$MAPPING" --cli-input-json "file://$WORK/update-mapping.json" > /dev/null
  fi
  wait_for 10 'the event source mapping' 'Enabled|Disabled' mapping_state
  aws lambda tag-resource --resource "$FUNCTION_ARN" --tags "content=$CONTENT"
}

# --- down ------------------------------------------------------------------------------------------------------------

down() { # [--yes]
  local found arn owner reply=''
  if [ -z "$STACK$SERVICE$TASK_DEFINITION_ARN$FUNCTION$MAPPING$METRIC_STREAM" ]; then
    say "Nothing of the demo is in $AWS_REGION of account $ACCOUNT_ID: nothing was removed. Is AWS_REGION right?"
    return
  fi
  if [ "${1:-}" != --yes ]; then
    printf 'Remove the demo with images, logs and messages from %s of account %s? Type yes: ' "$AWS_REGION" "$ACCOUNT_ID" >&2
    read -r reply || true
    [ "$reply" = yes ] || fail 'not confirmed'
  fi
  remove_mapping
  if [ -n "$METRIC_STREAM" ]; then
    step 'remove the metric stream'
    aws cloudwatch delete-metric-stream --name cal-onboarding
  fi
  if [ -n "$FUNCTION" ]; then
    step 'remove the function'
    aws lambda delete-function --function-name cal-onboarding-lambda > /dev/null
  fi
  if [ -n "$SERVICE" ]; then
    step 'remove the service and its tasks'
    [ "$SERVICE" = DRAINING ] ||
      aws ecs delete-service --cluster cal-onboarding --service onboarding-api --force > /dev/null
    wait_for 15 'the service' 'INACTIVE|None' service status || { explain_service; exit 1; }
  fi
  step 'remove the task definitions'
  found=$(aws ecs list-task-definitions --family-prefix cal-onboarding-api-demo --query 'taskDefinitionArns[]')
  for arn in $found; do
    owner=$(aws ecs describe-task-definition --task-definition "$arn" --include TAGS --query "tags[?key=='deployer'].value")
    if [ "$owner" != "$OWNER" ]; then say "${arn##*/} was made by somebody else and stays"; continue; fi
    aws ecs deregister-task-definition --task-definition "$arn" --query taskDefinition.taskDefinitionArn
  done
  [ -z "$STACK" ] || remove_foundation
  say "Removed. What remains: the inactive revisions of the task definition, which cost nothing, the images on this machine, \
and what Coralogix has received."
}

remove_mapping() {
  [ -n "$MAPPING" ] || return 0
  step 'remove the event source mapping'
  wait_for 10 'the event source mapping' 'Enabled|Disabled|Deleting|' mapping_state
  case $SEEN in
    Enabled | Disabled) aws lambda delete-event-source-mapping --uuid "$MAPPING" > /dev/null ;;
  esac
}

remove_foundation() {
  step 'remove the stack'
  if [ -n "$STACK_OUTPUT" ]; then # AWS uses parts of it until then, and Lambda the function's role to give up the interfaces
    wait_for 15 'ECS to take the task out of Cloud Map' '' look_up ServiceNotFound servicediscovery list-instances \
      --service-id "${COLLECTOR_REGISTRY_ARN##*/}" --query 'Instances[].Id'
    say 'Lambda may take half an hour to give up the network interfaces of the function.'
    wait_for 60 'the network interfaces of the function' '' aws ec2 describe-network-interfaces \
      --filters "Name=group-id,Values=$LAMBDA_SECURITY_GROUP_ID" --query 'NetworkInterfaces[].NetworkInterfaceId'
  fi
  remove_stack
}

main "$@"
