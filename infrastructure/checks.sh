# What deploy.sh looks at before it makes anything, and while it waits: tools, login, what there is, whose it is, the network.
# shellcheck shell=bash
# shellcheck disable=SC2016,SC2034 # JMESPath has backquotes; deploy.sh uses what is set here

OWNER=cal-onboarding/deploy.sh # the tag "deployer" of everything that deploy.sh makes

say() { printf '%s\n' "$*"; }
fail() { printf 'deploy.sh: %s\n' "$*" >&2; exit 1; }
usage() { printf 'deploy.sh: %s; see infrastructure/deploy.sh help\n' "$*" >&2; exit 2; }

need() { # NAME...
  local name
  for name in "$@"; do [ -n "${!name:-}" ] || usage "$name is not set"; done
}

check_variables() { # COMMAND
  local region='^[a-z]+(-[a-z]+)+-[0-9]+$'
  need AWS_REGION
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
      docker buildx version > /dev/null 2>&1 || fail 'Docker has no buildx, without which Lambda refuses images: install it'
      ;;
  esac
  identity=$(aws sts get-caller-identity --query Account) ||
    fail 'AWS does not say who you are (above): log in with "aws sso login" or "aws configure", or set AWS_PROFILE'
  ACCOUNT_ID=$identity
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
look_around() { # COMMAND
  local found owner id source
  STEP='looking at what is there' FOREIGN='' MAPPING='' KEY_IS_SET=''
  found=$(look_up 'does not exist' cloudformation describe-stacks --stack-name cal-onboarding \
    --query "Stacks[0].[StackStatus, Tags[?Key=='deployer']|[0].Value, Outputs[0].OutputValue]") ||
    fail "the region $AWS_REGION can't be used (above): is AWS_REGION right, and enabled for the account?"
  read -r STACK owner STACK_OUTPUT <<< "${found/%None/}"
  case "$1 $STACK" in
    *REVIEW_IN_PROGRESS) [ "$owner" != None ] || owner=$OWNER ;; # interrupted before it began: no resources, no tags yet
    up\ *_IN_PROGRESS | down\ *_IN_PROGRESS) # interrupted while AWS was at work, and still is
      wait_for 60 'the stack' '.*_(COMPLETE|FAILED)|' stack_status
      look_around "$1"
      return
      ;;
  esac
  ours "$STACK" "$owner" 'CloudFormation stack cal-onboarding'
  [ "$owner" = "$OWNER" ] || STACK_OUTPUT=''
  set_placeholders

  found=$(look_up ClusterNotFound ecs describe-services --cluster cal-onboarding --services onboarding-api --include TAGS \
    --query "services[?status!='INACTIVE']|[0].[status, tags[?key=='deployer']|[0].value, tags[?key=='content']|[0].value,
    taskDefinition, desiredCount]")
  read -r SERVICE owner SERVICE_CONTENT SERVICE_TASK SERVICE_COUNT <<< "$found"
  ours "$SERVICE" "$owner" 'ECS service onboarding-api'
  if [ -z "$STACK" ]; then # CloudFormation would take over a cluster that it finds
    found=$(aws ecs describe-clusters --clusters cal-onboarding --query "clusters[?status=='ACTIVE'].clusterName")
    ours "$found" '' 'ECS cluster cal-onboarding'
  else
    found=$(look_up ResourceNotFound secretsmanager describe-secret --secret-id cal-onboarding-coralogix-key \
      --query 'keys(VersionIdsToStages || `{}`)')
    KEY_IS_SET=${found:+yes}
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

  # Not every version of the CLI tags mappings: ours is the one from our queue to our function.
  found=$(aws lambda list-event-source-mappings --query \
    "EventSourceMappings[?ends_with(FunctionArn, ':function:cal-onboarding-lambda')].[UUID, EventSourceArn]")
  while read -r id source; do
    if [[ $source == *":$AWS_REGION:$ACCOUNT_ID:cal-onboarding-queue" ]]; then
      MAPPING=$id
    elif [ "$1" = down ]; then # the function would be gone for whoever made this one
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

set_placeholders() { # the stack's only output has those placeholders that AWS has named
  local pair
  for pair in $STACK_OUTPUT; do export "${pair?}"; done
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
      fail "$AWS_REGION has no default VPC: \"aws ec2 create-default-vpc\" makes one, or set VPC_ID, SUBNET_A, SUBNET_B"
    found=$(aws ec2 describe-subnets --filters "Name=vpc-id,Values=$VPC_ID" Name=default-for-az,Values=true \
      --query 'sort_by(Subnets, &AvailabilityZoneId)[:2].SubnetId')
    read -r SUBNET_A SUBNET_B <<< "$found"
    [ -n "$SUBNET_B" ] || fail "$VPC_ID has fewer than two default subnets: set VPC_ID, SUBNET_A, SUBNET_B"
  fi
  for attribute in enableDnsSupport enableDnsHostnames; do
    found=$(aws ec2 describe-vpc-attribute --vpc-id "$VPC_ID" --attribute $attribute \
      --query '[EnableDnsSupport, EnableDnsHostnames][].Value')
    [ "$found" = True ] || fail "$VPC_ID has $attribute off: the function would not find the Collector by its name"
  done
  for subnet in "$SUBNET_A" "$SUBNET_B"; do
    found=$(aws ec2 describe-subnets --subnet-ids "$subnet" --query 'Subnets[].VpcId')
    [ "$found" = "$VPC_ID" ] || fail "the subnet $subnet is not in $VPC_ID"
    found=$(default_route "Name=association.subnet-id,Values=$subnet")
    [ -n "$found" ] || found=$(default_route Name=association.main,Values=true)
    [[ $found == *igw-* ]] || fail "the subnet $subnet has no route to an internet gateway: the task could not pull images"
  done
}

default_route() { # FILTER; prints the route table and its way to the internet
  aws ec2 describe-route-tables --filters "Name=vpc-id,Values=$VPC_ID" "$1" \
    --query "RouteTables[].[RouteTableId, Routes[?DestinationCidrBlock=='0.0.0.0/0']|[0].GatewayId]"
}

own_address() {
  curl -fsS -m 10 https://checkip.amazonaws.com || fail "this machine's public address is not known: set CLIENT_CIDR"
}

# --- while AWS is at work --------------------------------------------------------------------------------------------

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

stack_status() {
  look_up 'does not exist' cloudformation describe-stacks --stack-name cal-onboarding --query 'Stacks[0].StackStatus'
}

explain_stack() { # leaves the latest failures in SEEN
  SEEN=$(aws cloudformation describe-stack-events --stack-name cal-onboarding --query \
    "StackEvents[?contains(ResourceStatus, 'FAILED')].[LogicalResourceId, ResourceStatusReason] | [:8]")
  say "$SEEN" >&2
}

PRIMARY="deployments[?status=='PRIMARY'] | [0]"
service() { # QUERY
  aws ecs describe-services --cluster cal-onboarding --services onboarding-api --query "services[0].$1"
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
  [ -n "$tasks" ] || return 0
  # shellcheck disable=SC2086 # a list of ARNs
  aws ecs describe-tasks --cluster cal-onboarding --tasks $tasks \
    --query 'tasks[].[stoppedReason, containers[].[name, exitCode, reason]]' >&2
}

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

FUNCTION_RESTS=$'(Active|Inactive|Failed)\t(Successful|Failed|None)\t.*'
function_state() {
  aws lambda get-function-configuration --function-name cal-onboarding-lambda \
    --query '[State, LastUpdateStatus, StateReason, LastUpdateStatusReason]'
}

wait_for_function() {
  wait_for 10 'the function' "$FUNCTION_RESTS" function_state
  [[ $SEEN != *Failed* ]] || fail "Lambda could not set up the function: $SEEN"
}

mapping_state() {
  look_up ResourceNotFound lambda get-event-source-mapping --uuid "$MAPPING" --query State
}

logged() { # GROUP PATTERN [OPTION...]; prints the first such line since $SINCE, after the name of its stream
  local group=$1 pattern=$2 found
  shift 2
  found=$(aws logs filter-log-events --log-group-name "$group" --start-time "$SINCE" --filter-pattern "$pattern" "$@" \
    --query 'events[].[logStreamName, message]') || return 1
  sed -n 1p <<< "$found"
}
