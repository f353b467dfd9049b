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

OWNER=cal-onboarding/deploy.sh # the tag "deployer" of everything that is made here
STEP='' MADE='' KEY='' FOREIGN='' WRONG=''

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
  look_around
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

say() { printf '%s\n' "$*"; }
fail() { printf 'deploy.sh: %s\n' "$*" >&2; exit 1; }
usage() { printf 'deploy.sh: %s; see infrastructure/deploy.sh help\n' "$*" >&2; exit 2; }
step() { STEP=$1 MADE=yes; say "== $1"; }

ended() { # STATUS COMMAND
  local hint='Nothing was changed.'
  rm -rf "$WORK"
  case $1 in 0 | 2 | 3) return ;; esac
  [ -z "$MADE" ] || hint='Run it again: it goes on where it was.'
  say "deploy.sh: $2 stopped at: $STEP. $hint" >&2
  exit 1
}

# --- before anything is made -----------------------------------------------------------------------------------------

check_variables() { # COMMAND
  need AWS_REGION
  local region='^[a-z]+(-[a-z]+)+-[0-9]+$'
  [[ $AWS_REGION =~ $region ]] || usage "AWS_REGION $AWS_REGION is not the name of a region"
  export AWS_REGION AWS_DEFAULT_REGION=$AWS_REGION AWS_DEFAULT_OUTPUT=text AWS_PAGER=
  case $1 in
    metric-stream) need FIREHOSE_ARN METRIC_STREAM_ROLE_ARN ;;
    up)
      need CORALOGIX_DOMAIN IMAGE_TAG
      [[ $IMAGE_TAG =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$ ]] || usage "IMAGE_TAG $IMAGE_TAG can't be the tag of an image"
      [[ ${DESIRED_COUNT:-1} =~ ^[0-9]+$ ]] || usage "DESIRED_COUNT $DESIRED_COUNT is not a number"
      case ${ARCH:=amd64} in
        amd64) LAMBDA_ARCHITECTURE=x86_64 CPU_ARCHITECTURE=X86_64 ;;
        arm64) LAMBDA_ARCHITECTURE=arm64 CPU_ARCHITECTURE=ARM64 ;;
        *) usage "ARCH $ARCH is neither amd64 nor arm64" ;;
      esac
      ;;
  esac
}

need() { # NAME...
  local name
  for name in "$@"; do [ -n "${!name:-}" ] || usage "$name is not set"; done
}

check_tools() { # COMMAND
  local identity
  command -v aws > /dev/null || fail 'there is no aws: install AWS CLI 2.13 or newer'
  case $1 in
    logs) cli_has group_name logs tail ;;
    redrive) cli_has SourceArn sqs start-message-move-task ;;
    up)
      cli_has ScalingConfig lambda create-event-source-mapping
      command -v docker > /dev/null || fail 'there is no docker, and up builds images: install it, with buildx'
      docker info > /dev/null 2>&1 || fail 'Docker does not run, and up builds images: start it ("docker info" says more)'
      docker buildx version > /dev/null 2>&1 || fail 'Docker has no buildx, without which Lambda refuses the image: install it'
      ;;
  esac
  identity=$(aws sts get-caller-identity --query '[Account, Arn]') ||
    fail 'AWS does not say who you are (above): log in with "aws sso login" or "aws configure", or set AWS_PROFILE'
  read -r ACCOUNT_ID identity <<< "$identity"
  ECR_REPO=$ACCOUNT_ID.dkr.ecr.$AWS_REGION.amazonaws.com
}

cli_has() { # WORD SERVICE OPERATION; the word is one of the operation's input or usage
  local known
  known=$(aws "$2" "$3" --generate-cli-skeleton 2>&1) || true
  [[ $known == *"$1"* ]] || fail "$(aws --version 2>&1) lacks \"aws $2 $3\" ($1): install AWS CLI 2.13 or newer"
}

# Prints what an aws command finds, and nothing if its error says that it is not there. Any other error is a failure:
# what could not be looked up is not taken for missing.
look_up() { # PATTERN-OF-THE-ERROR ARGUMENTS...
  local missing=$1 found
  shift
  if found=$(aws "$@" 2> "$WORK/error"); then
    if [ -n "$found" ] && [ "$found" != None ]; then say "$found"; fi
  elif ! grep -Eq "$missing" "$WORK/error"; then
    cat "$WORK/error" >&2
    return 1
  fi
}

# Sets what there is (empty: nothing), and FOREIGN to what has one of our names and was made by somebody else.
look_around() {
  local found owner id source
  STEP='looking at what is there'
  found=$(look_up 'does not exist' cloudformation describe-stacks --stack-name cal-onboarding \
    --query "Stacks[0].[StackStatus, Tags[?Key=='deployer']|[0].Value, Outputs[0].OutputValue]") ||
    fail "the region $AWS_REGION can't be used (above): is AWS_REGION right, and enabled for the account?"
  read -r STACK owner STACK_OUTPUT <<< "${found/%None/}"
  set_placeholders
  # A stack whose creation was interrupted before it began has neither tags nor resources.
  [ "$STACK $owner" = 'REVIEW_IN_PROGRESS None' ] || ours "$STACK" "$owner" 'CloudFormation stack cal-onboarding'

  found=$(look_up ClusterNotFound ecs describe-services --cluster cal-onboarding --services onboarding-api --include TAGS \
    --query "services[?status!='INACTIVE']|[0].[status, tags[?key=='deployer']|[0].value, tags[?key=='content']|[0].value,
    taskDefinition, desiredCount]")
  read -r SERVICE owner SERVICE_CONTENT SERVICE_TASK SERVICE_COUNT <<< "$found"
  ours "$SERVICE" "$owner" 'ECS service onboarding-api'
  if [ -z "$STACK" ]; then # CloudFormation would take over a cluster that it finds
    found=$(aws ecs describe-clusters --clusters cal-onboarding --query "clusters[?status=='ACTIVE'].clusterName")
    ours "$found" '' 'ECS cluster cal-onboarding'
  fi

  found=$(look_up 'Unable to describe task definition' ecs describe-task-definition --include TAGS \
    --task-definition cal-onboarding-api-demo --query "[taskDefinition.taskDefinitionArn,
    tags[?key=='deployer']|[0].value, tags[?key=='content']|[0].value]")
  read -r TASK_DEFINITION_ARN owner TASK_CONTENT <<< "$found"
  ours "$TASK_DEFINITION_ARN" "$owner" "task definition ${TASK_DEFINITION_ARN##*/}"

  found=$(look_up ResourceNotFound lambda get-function --function-name cal-onboarding-lambda \
    --query '[Configuration.State, Tags.deployer, Tags.content, Configuration.FunctionArn, Code.ImageUri]')
  read -r FUNCTION owner FUNCTION_CONTENT FUNCTION_ARN FUNCTION_IMAGE <<< "$found"
  ours "$FUNCTION" "$owner" 'function cal-onboarding-lambda'

  found=$(look_up ResourceNotFound secretsmanager describe-secret --secret-id cal-onboarding-coralogix-key \
    --query 'keys(VersionIdsToStages || `{}`)')
  KEY_IS_SET=${found:+yes}

  # Not every version of the CLI tags mappings: ours is the one from our queue to our function.
  MAPPING=''
  found=$(aws lambda list-event-source-mappings --query \
    "EventSourceMappings[?ends_with(FunctionArn, ':function:cal-onboarding-lambda')].[UUID, EventSourceArn]")
  while read -r id source; do
    if [[ $source == *":$AWS_REGION:$ACCOUNT_ID:cal-onboarding-queue" ]]; then MAPPING=$id; else
      ours "$id" '' "event source mapping $id from $source"
    fi
  done <<< "$found"

  found=$(look_up ResourceNotFound cloudwatch get-metric-stream --name cal-onboarding --query '[State, Arn]')
  read -r METRIC_STREAM id <<< "$found"
  if [ -n "$id" ]; then
    owner=$(aws cloudwatch list-tags-for-resource --resource-arn "$id" --query "Tags[?Key=='deployer'].Value")
    ours "$METRIC_STREAM" "$owner" 'metric stream cal-onboarding'
  fi
}

ours() { # WHAT-EXISTS ITS-OWNER ITS-NAME
  if [ -n "$1" ] && [ "$2" != "$OWNER" ]; then FOREIGN="$FOREIGN, the $3"; fi
}

# Sets VPC_ID, SUBNET_A and SUBNET_B; fails when the task or the function could not work there.
find_network() {
  local found subnet attribute
  : "${VPC_ID:=${STACK_VPC_ID:-}}" "${SUBNET_A:=${STACK_SUBNET_A:-}}" "${SUBNET_B:=${STACK_SUBNET_B:-}}"
  if [ -n "$STACK_OUTPUT" ] && [ "$VPC_ID $SUBNET_A $SUBNET_B" != "$STACK_VPC_ID $STACK_SUBNET_A $STACK_SUBNET_B" ]; then
    fail "the demo is in $STACK_VPC_ID ($STACK_SUBNET_A, $STACK_SUBNET_B) and can't move: unset VPC_ID, SUBNET_A, SUBNET_B"
  elif [ -n "$VPC_ID$SUBNET_A$SUBNET_B" ]; then
    need VPC_ID SUBNET_A SUBNET_B
  else
    VPC_ID=$(aws ec2 describe-vpcs --filters Name=is-default,Values=true --query 'Vpcs[].VpcId')
    [ -n "$VPC_ID" ] ||
      fail "$AWS_REGION has no default VPC: make one with \"aws ec2 create-default-vpc\", or set VPC_ID, SUBNET_A, SUBNET_B"
    found=$(aws ec2 describe-subnets --filters "Name=vpc-id,Values=$VPC_ID" Name=default-for-az,Values=true \
      --query 'sort_by(Subnets, &AvailabilityZoneId)[:2].SubnetId')
    read -r SUBNET_A SUBNET_B <<< "$found"
    [ -n "$SUBNET_B" ] || fail "$VPC_ID has fewer than two default subnets: set VPC_ID, SUBNET_A, SUBNET_B"
  fi
  for attribute in enableDnsSupport enableDnsHostnames; do
    found=$(aws ec2 describe-vpc-attribute --vpc-id "$VPC_ID" --attribute $attribute --query '[EnableDnsSupport, EnableDnsHostnames][].Value')
    [ "$found" = True ] || fail "$VPC_ID has $attribute off: the function would not find the Collector by its name"
  done
  for subnet in "$SUBNET_A" "$SUBNET_B"; do
    found=$(aws ec2 describe-subnets --subnet-ids "$subnet" --query 'Subnets[].VpcId')
    [ "$found" = "$VPC_ID" ] || fail "the subnet $subnet is not in $VPC_ID"
    found=$(default_route "Name=association.subnet-id,Values=$subnet")
    [ -n "$found" ] || found=$(default_route Name=association.main,Values=true)
    [[ $found == *igw-* ]] || fail "the subnet $subnet has no route to an internet gateway: the task could not pull its images"
  done
}

default_route() { # FILTER; prints the route table and its way to the internet
  aws ec2 describe-route-tables --filters "Name=vpc-id,Values=$VPC_ID" "$1" \
    --query "RouteTables[].[RouteTableId, Routes[?DestinationCidrBlock=='0.0.0.0/0']|[0].GatewayId]"
}

own_address() {
  curl -fsS -m 10 https://checkip.amazonaws.com || fail "this machine's public address is not known: set CLIENT_CIDR"
}

# Repeats a command every ten seconds until all it prints matches a pattern; leaves that in SEEN.
wait_for() { # MINUTES WHAT PATTERN COMMAND...
  local rounds=$(($1 * 6)) what=$2 pattern="^($3)\$"
  shift 3
  while SEEN=$("$@") || return 1; do
    if [[ $SEEN =~ $pattern ]]; then return; fi
    [ $((rounds -= 1)) -gt 0 ] || break
    printf . >&2
    sleep 10
  done
  say "deploy.sh: still waiting for $what: $SEEN" >&2
  return 1
}

# --- up: the foundation, then the four steps of the README -----------------------------------------------------------

up() {
  find_network
  if [ -z "$STACK_OUTPUT" ]; then CLIENT_CIDR=${CLIENT_CIDR:-$(own_address)/32}; fi
  if [ -z "$STACK" ] || [ -z "$KEY_IS_SET" ]; then read_key; fi
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
  settle_stack
  case $STACK in ROLLBACK_* | DELETE_FAILED) remove_stack ;; esac # neither can be updated
  if ! deploy_stack; then
    explain_stack
    [[ $SEEN == *'wait 60 seconds'* ]] || fail 'the foundation could not be made (above)'
    settle_stack # a queue's name can't be used again for a minute
    remove_stack
    sleep 60
    deploy_stack || { explain_stack; fail 'the foundation could not be made (above)'; }
  fi
  read_output
}

read_output() {
  STACK_OUTPUT=$(look_up 'does not exist' cloudformation describe-stacks --stack-name cal-onboarding \
    --query 'Stacks[0].Outputs[0].OutputValue')
  set_placeholders
}

set_placeholders() { # the output of the stack has those that AWS has named
  local pair
  for pair in $STACK_OUTPUT; do export "${pair?}"; done
}

deploy_stack() {
  aws cloudformation deploy --stack-name cal-onboarding --template-file infrastructure/foundation.yaml \
    --capabilities CAPABILITY_IAM --no-fail-on-empty-changeset --tags "deployer=$OWNER" \
    --parameter-overrides "VpcId=$VPC_ID" "SubnetIds=$SUBNET_A,$SUBNET_B" ${CLIENT_CIDR:+"ClientCidr=$CLIENT_CIDR"} \
    ${ALARM_TOPIC_ARN+"AlarmTopicArn=$ALARM_TOPIC_ARN"}
}

explain_stack() { # SEEN: the latest failures
  SEEN=$(aws cloudformation describe-stack-events --stack-name cal-onboarding --query \
    "StackEvents[?contains(ResourceStatus, 'FAILED')].[LogicalResourceId, ResourceStatusReason] | [:8]")
  say "$SEEN" >&2
}

stack_status() {
  look_up 'does not exist' cloudformation describe-stacks --stack-name cal-onboarding --query 'Stacks[0].StackStatus'
}

settle_stack() { # an interrupted run may have left AWS at work
  wait_for 60 'the stack' '.*_(COMPLETE|FAILED)|REVIEW_IN_PROGRESS|' stack_status
  STACK=$SEEN
  [ -z "$STACK" ] || read_output
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

PRIMARY="deployments[?status=='PRIMARY'] | [0]"
service() { # QUERY
  aws ecs describe-services --cluster cal-onboarding --services onboarding-api --query "services[0].$1"
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

FUNCTION_RESTS=$'(Active|Inactive|Failed)\t(Successful|Failed|None)\t.*'
function_state() {
  aws lambda get-function-configuration --function-name cal-onboarding-lambda \
    --query '[State, LastUpdateStatus, StateReason, LastUpdateStatusReason]'
}

wait_for_function() {
  wait_for 10 'the function' "$FUNCTION_RESTS" function_state
  [[ $SEEN != *Failed* ]] || fail "Lambda could not set up the function: $SEEN"
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

mapping_state() {
  look_up ResourceNotFound lambda get-event-source-mapping --uuid "$MAPPING" --query State
}

wait_for_service() { # after a rollback a service is stable, too: with another deployment than ours
  local id task state reason
  step 'the service to run its tasks'
  wait_for 20 'the deployment' $'.*\t(COMPLETED|FAILED)\t.*' \
    service "$PRIMARY.[id, taskDefinition, rolloutState, rolloutStateReason]" || { explain_service; exit 1; }
  IFS=$'\t' read -r id task state reason <<< "$SEEN"
  if [ "$state $id $task" != "COMPLETED $DEPLOYMENT $TASK_DEFINITION_ARN" ]; then
    explain_service
    fail "ECS could not run ${TASK_DEFINITION_ARN##*/} (above) and has gone back to ${task##*/}: $reason"
  fi
}

explain_service() { # the service's last events, and how its last tasks ended
  local tasks
  service 'events[:5].[message]' >&2
  tasks=$(aws ecs list-tasks --cluster cal-onboarding --family cal-onboarding-api-demo --desired-status STOPPED \
    --query 'taskArns[:3]')
  # shellcheck disable=SC2086 # a list of ARNs
  if [ -n "$tasks" ]; then
    aws ecs describe-tasks --cluster cal-onboarding --tasks $tasks \
      --query 'tasks[].[stoppedReason, containers[].[name, exitCode, reason]]' >&2
  fi
}

# --- while it runs ---------------------------------------------------------------------------------------------------

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

addresses() { # prints the public address of each running task
  local found
  found=$(aws ecs list-tasks --cluster cal-onboarding --service-name onboarding-api --query 'taskArns[]') || return 1
  [ -n "$found" ] || return 0
  # shellcheck disable=SC2086 # lists of ids
  found=$(aws ecs describe-tasks --cluster cal-onboarding --tasks $found \
    --query "tasks[?lastStatus=='RUNNING'].attachments[].details[?name=='networkInterfaceId'].value[]") || return 1
  [ -n "$found" ] || return 0
  # shellcheck disable=SC2086
  aws ec2 describe-network-interfaces --network-interface-ids $found --query 'NetworkInterfaces[].Association.PublicIp'
}

verify() {
  local address response trace since found
  step 'a request to the API'
  address=$(addresses)
  address=${address%%[[:space:]]*}
  [ -n "$address" ] || fail "no task runs: 'status' says more"
  since=$(date +%s)000
  response=$(curl -fsS -m 10 -X POST "http://$address:8000/telemetry/smoke" -H 'Content-Type: application/json' \
    -d '{"customer_id":"TEST-001"}') || fail "the API at $address does not respond. It is open to $API_CLIENTS and this \
machine has $(own_address): CLIENT_CIDR and up change that"
  trace=$(sed -n 's/.*"trace_id": *"\([0-9a-f]*\)".*/\1/p' <<< "$response")
  say "$response"
  step "its trace in the log of the API"
  wait_for 2 'the line' '.+' logged /ecs/cal-onboarding-api "$since" "\"PRODUCER trace_id=$trace\""
  say "${SEEN#*$'\t'}"
  step 'the same trace in the log of the function'
  wait_for 5 'the line' '.+' logged /aws/lambda/cal-onboarding-lambda "$since" "\"extracted traceparent 00-$trace\""
  say "${SEEN#*$'\t'}"
  step 'the flush of the function'
  wait_for 2 'the line' '.+' logged /aws/lambda/cal-onboarding-lambda "$since" '"Flush "' --log-stream-names "${SEEN%%$'\t'*}"
  say "${SEEN#*$'\t'}"
  [[ $SEEN == *'Flush complete'* ]] || fail 'the function could not send its spans to the Collector'
  step 'what Coralogix has refused, in the log of the Collector'
  sleep 20
  found=$(logged /ecs/cal-otel-collector "$since" \
    '?Unauthenticated ?PermissionDenied ?"Exporting failed" ?"no children to pick from" ?"non-printable ASCII"')
  [ -z "$found" ] || fail "the Collector says: $found"
  say "nothing. One trace went through both programs. See it in Coralogix, in Explore, Tracing, with the filter
  service.name:(\"onboarding-api\" OR \"onboarding-lambda\") and the trace id $trace"
}

logged() { # GROUP SINCE PATTERN [OPTION...]; prints the first such line, after the name of its stream
  local group=$1 since=$2 pattern=$3 found
  shift 3
  found=$(aws logs filter-log-events --log-group-name "$group" --start-time "$since" --filter-pattern "$pattern" "$@" \
    --query 'events[].[logStreamName, message]') || return 1
  sed -n 1p <<< "$found"
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

# --- down ------------------------------------------------------------------------------------------------------------

down() { # [--yes]
  local found arn owner reply=''
  if [ -z "$STACK$SERVICE$TASK_DEFINITION_ARN$FUNCTION$MAPPING$METRIC_STREAM" ]; then
    say "Nothing of the demo is in $AWS_REGION of account $ACCOUNT_ID: nothing was removed. Is AWS_REGION right?"
    return
  fi
  if [ "${1:-}" != --yes ]; then
    printf 'Remove the demo with its images, logs and messages from %s of account %s? Type yes: ' "$AWS_REGION" "$ACCOUNT_ID" >&2
    read -r reply || true
    [ "$reply" = yes ] || fail 'nothing was removed'
  fi
  [ -z "$STACK" ] || settle_stack
  if [ -n "$MAPPING" ]; then
    step 'remove the event source mapping'
    look_up 'ResourceNotFound|ResourceInUse' lambda delete-event-source-mapping --uuid "$MAPPING" --query State
  fi
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
      aws ecs delete-service --cluster cal-onboarding --service onboarding-api --force --query service.status
    wait_for 15 'the service' 'INACTIVE|None' service status || { explain_service; exit 1; }
  fi
  step 'remove the task definitions'
  found=$(aws ecs list-task-definitions --family-prefix cal-onboarding-api-demo --query 'taskDefinitionArns[]')
  for arn in $found; do
    owner=$(aws ecs describe-task-definition --task-definition "$arn" --include TAGS --query "tags[?key=='deployer'].value")
    if [ "$owner" != "$OWNER" ]; then say "${arn##*/} was made by somebody else and stays"; continue; fi
    aws ecs deregister-task-definition --task-definition "$arn" --query taskDefinition.taskDefinitionArn
  done
  if [ -n "$STACK" ]; then
    step 'remove the stack'
    if [ -n "$STACK_OUTPUT" ]; then # what others made with its parts must be gone before; it needs the function's role for that
      wait_for 15 'ECS to take the task out of Cloud Map' '' look_up ServiceNotFound servicediscovery list-instances \
        --service-id "${COLLECTOR_REGISTRY_ARN##*/}" --query 'Instances[].Id'
      say 'Lambda may take half an hour to give up the network interfaces of the function.'
      wait_for 60 'the network interfaces of the function' '' aws ec2 describe-network-interfaces \
        --filters "Name=group-id,Values=$LAMBDA_SECURITY_GROUP_ID" --query 'NetworkInterfaces[].NetworkInterfaceId'
    fi
    remove_stack
  fi
  say "Removed. What remains: the task definition's inactive revisions, which cost nothing, the images on this machine, and \
what Coralogix has received."
}

main "$@"
