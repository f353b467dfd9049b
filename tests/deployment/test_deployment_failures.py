"""What deploy.sh does when something fails, belongs to somebody else, or ends it halfway."""

import collections
import json
import os
import random
import re
import shlex
import signal
import subprocess

import pytest

from account import KEY, SCRIPT, STREAM, VARIABLES

ROLE = "arn:aws:iam::123456789012:role/x"
TRUST = json.dumps({"Version": "2012-10-17", "Statement": []})


# --- what somebody else has made ------------------------------------------------------------------------------------


def make_stack(account):
    template = json.dumps({"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}})
    account.client("cloudformation").create_stack(StackName="cal-onboarding", TemplateBody=template)


def make_cluster(account):
    account.client("ecs").create_cluster(clusterName="cal-onboarding")


def make_task_definition(account, **options):
    containers = [{"name": "x", "image": "x", "memory": 128}]
    family = "cal-onboarding-api-demo"
    account.client("ecs").register_task_definition(family=family, containerDefinitions=containers, **options)


def make_function(account):
    account.client("iam").create_role(RoleName="x", AssumeRolePolicyDocument=TRUST)
    network = account.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
    account.client("lambda").create_function(
        FunctionName="cal-onboarding-lambda",
        PackageType="Image",
        Code={"ImageUri": "123456789012.dkr.ecr.us-east-1.amazonaws.com/x:1"},
        Role=ROLE,
        VpcConfig={"SubnetIds": [network], "SecurityGroupIds": []},
    )


def make_metric_stream(account):
    account.client("cloudwatch").put_metric_stream(
        Name="cal-onboarding", FirehoseArn="arn:aws:firehose:::x", RoleArn=ROLE, OutputFormat="json"
    )


def make_queue(account):
    account.client("sqs").create_queue(QueueName="cal-onboarding-queue")


def make_repository(account):
    account.client("ecr").create_repository(repositoryName="cal-otel-collector")


def make_log_group(account):
    account.client("logs").create_log_group(logGroupName="/ecs/cal-onboarding-api")


def make_secret(account):
    account.client("secretsmanager").create_secret(Name="cal-onboarding-coralogix-key", SecretString="x")


def make_namespace(account):
    vpc = account.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    account.client("servicediscovery").create_private_dns_namespace(Name="onboarding.internal", Vpc=vpc)


def make_security_group(account):
    vpc = account.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    account.client("ec2").create_security_group(GroupName="cal-onboarding-api", Description="x", VpcId=vpc)


FOREIGN = {
    make_cluster: "the ECS cluster cal-onboarding",
    make_task_definition: "the task definition cal-onboarding-api-demo:1",
    make_function: "the function cal-onboarding-lambda",
    make_metric_stream: "the metric stream cal-onboarding",
}
IN_THE_STACK = {
    make_queue: "cal-onboarding-queue already exists",
    make_repository: "cal-otel-collector already exists",
    make_log_group: "/ecs/cal-onboarding-api already exists",
    make_secret: "cal-onboarding-coralogix-key already exists",
    make_namespace: "onboarding.internal already exists",
    make_security_group: "cal-onboarding-api already exists",
}


def check_left_alone(account, *names):
    """Assert that up and down name what somebody else has made, and change nothing."""
    before = account.resources()
    for command in (["up"], ["down", "--yes"]):
        outcome = account.run(*command, stdin=f"{KEY}\n")
        assert f"deploy.sh: {', '.join(names)} in us-east-1 of account 123456789012 was made by" in outcome.stderr
        assert (outcome.status, account.resources()) == (1, before)
    assert account.calls("docker build ") == []


def test_what_has_one_of_our_names_and_is_not_ours_is_named_and_left_alone(account):
    for make in FOREIGN:
        make(account)
    check_left_alone(account, *FOREIGN.values())


@pytest.mark.slow
@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
def test_each_of_them_alone_is_enough(account, make):
    make(account)
    check_left_alone(account, FOREIGN[make])


@pytest.mark.slow
def test_a_stack_of_our_name_that_is_not_ours_is_named_and_left_alone(account):
    make_stack(account)
    check_left_alone(account, "the CloudFormation stack cal-onboarding")


@pytest.mark.slow
@pytest.mark.parametrize("make", IN_THE_STACK, ids=lambda make: make.__name__)
def test_what_the_stack_would_take_over_is_named_and_left_alone(account, make):
    make(account)
    before = account.resources()
    outcome = account.run("up", stdin=f"{KEY}\n")
    assert (outcome.status, IN_THE_STACK[make] in outcome.stderr) == (1, True), outcome
    assert "the foundation could not be made" in outcome.stderr
    account.must("down", "--yes")
    assert account.resources() == before


@pytest.mark.slow
def test_a_mapping_that_brings_our_function_somebody_elses_messages_is_named_and_left_alone(copy):
    queue = copy.client("sqs").create_queue(QueueName="another")["QueueUrl"]
    arn = copy.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]["QueueArn"]
    mapping = copy.client("lambda").create_event_source_mapping(
        FunctionName="cal-onboarding-lambda", EventSourceArn=arn
    )
    outcome = copy.run("down", "--yes")
    assert (outcome.status, f"the event source mapping {mapping['UUID']} from {arn}" in outcome.stderr) == (1, True)
    assert copy.function()["State"] == "Active"


@pytest.mark.slow
def test_a_service_of_our_name_that_somebody_else_made_is_named_and_left_alone(copy):
    copy.client("ecs").untag_resource(resourceArn=copy.service()["serviceArn"], tagKeys=["deployer"])
    for command in (["up"], ["down", "--yes"]):
        outcome = copy.run(*command)
        assert (outcome.status, "the ECS service onboarding-api" in outcome.stderr) == (1, True), outcome
    assert copy.service()["status"] == "ACTIVE"


@pytest.mark.slow
def test_somebody_elses_revision_of_the_task_definition_stays(copy):
    make_task_definition(copy)
    make_task_definition(copy, tags=[{"key": "deployer", "value": "cal-onboarding/deploy.sh"}])  # the latest is ours
    assert "cal-onboarding-api-demo:2 was made by somebody else and stays" in copy.must("down", "--yes")
    (left,) = copy.client("ecs").list_task_definitions()["taskDefinitionArns"]
    assert left.endswith("cal-onboarding-api-demo:2")


def test_a_second_copy_in_another_region_shares_nothing_of_the_account(deployed):
    roles = {role["RoleName"] for role in deployed.client("iam").list_roles()["Roles"]}
    assert [name for name in roles if not re.fullmatch(r"cal-onboarding-\w+Role-\w+", name)] == []


# --- what does not work ---------------------------------------------------------------------------------------------


def test_a_task_that_does_not_start_is_named_with_its_reason_and_the_old_one_goes_on(copy):
    copy.order("behaviour", {"tasks fail": True})
    outcome = copy.run("up", IMAGE_TAG="1.0.1")
    assert outcome.status == 1
    for said in (
        "was unable to place a task",
        "Essential container in task exited",
        "otel-collector\t64\tCORALOGIX_DOMAIN is missing",
        "ECS could not run cal-onboarding-api-demo:2 (above) and has gone back to cal-onboarding-api-demo:1",
        "up stopped at: the service to run its tasks. Run it again",
    ):
        assert said in outcome.stderr


@pytest.mark.slow
def test_an_update_that_was_rolled_back_is_tried_again_by_the_next_up(copy):
    copy.order("behaviour", {"tasks fail": True})
    assert copy.run("up", IMAGE_TAG="1.0.1").status == 1
    copy.order("behaviour", {"tasks fail": False})
    copy.must("up", IMAGE_TAG="1.0.1")
    check_deployed(copy, "1.0.1")


@pytest.mark.slow
def test_a_key_with_which_no_task_starts_is_said_so(copy):
    copy.order("behaviour", {"tasks fail": True})
    outcome = copy.run("key", stdin="another\n")
    assert (outcome.status, "ECS could not run cal-onboarding-api-demo:1" in outcome.stderr) == (1, True), outcome


@pytest.mark.slow
def test_a_stack_that_was_rolled_back_is_removed_and_made_again(account, empty):
    make_queue(account)
    assert account.run("up", stdin=f"{KEY}\n").status == 1
    (stack,) = account.client("cloudformation").describe_stacks()["Stacks"]
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    account.client("sqs").delete_queue(QueueUrl=account.queue("cal-onboarding-queue")["Url"])
    account.up()
    account.must("down", "--yes")
    assert account.resources() == empty.resources()


@pytest.mark.slow
def test_the_name_of_a_queue_that_was_just_removed_is_waited_for(account):
    account.order("behaviour", {"queue name is blocked": True})
    account.up()
    assert "sleep 60" in account.calls("sleep")
    assert "wait 60 seconds" not in account.must("status")


@pytest.mark.slow
def test_a_foundation_that_cannot_be_changed_is_said_so_with_the_reason(copy):
    copy.order("behaviour", {"update fails": True})
    outcome = copy.run("up", CLIENT_CIDR="198.51.100.0/24")
    assert (outcome.status, "Queue\tthe reason of the failed update" in outcome.stderr) == (1, True), outcome
    copy.must("up", CLIENT_CIDR="198.51.100.0/24")


@pytest.mark.slow
@pytest.mark.parametrize("busy", ["CREATE_IN_PROGRESS", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "DELETE_IN_PROGRESS"])
@pytest.mark.parametrize("command", [["up"], ["down", "--yes"]], ids=lambda command: command[0])
def test_a_stack_that_an_interrupted_run_left_busy_is_waited_for(copy, busy, command):
    copy.order("behaviour", {"busy": busy, "polls while the stack is busy": 3})
    copy.must(*command)


@pytest.mark.slow
def test_a_function_that_lambda_could_not_set_up_is_said_so_and_made_again(copy):
    states = [{"State": "Pending"}, {"State": "Active"}, {"State": "Failed", "StateReason": "no subnet"}]
    copy.order("behaviour", {"function states": states})
    outcome = copy.run("up", IMAGE_TAG="1.0.1")
    assert outcome.status == 1
    assert "Lambda could not set up the function: Failed" in outcome.stderr
    assert "no subnet" in outcome.stderr
    copy.must("up", IMAGE_TAG="1.0.1")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"DOCKER_FAILS": "info"}, "Docker does not run"),
        ({"DOCKER_FAILS": "buildx"}, "Docker has no buildx"),
        ({"VPC_ID": "vpc-1"}, "SUBNET_A is not set"),
        ({"VPC_ID": "vpc-1", "SUBNET_A": "subnet-1", "SUBNET_B": "subnet-2"}, "vpc-1"),
    ],
    ids=lambda case: " ".join(case) if isinstance(case, dict) else "",
)
def test_what_is_missing_is_named_before_anything_is_made(account, variables, said):
    outcome = account.run("up", stdin=f"{KEY}\n", **variables)
    assert (outcome.status in (1, 2), said in outcome.stderr) == (True, True), outcome
    assert account.order("calls") == [] or not any(name.startswith("Create") for _, name in account.order("calls"))


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        ("GetCallerIdentity", "AWS does not say who you are"),
        ("DescribeStacks", "the region us-east-1 can't be used"),
        ("DescribeServices", "up stopped at: looking at what is there. Nothing was changed."),
    ],
)
def test_a_look_up_that_fails_is_not_taken_for_nothing(account, operation, said):
    account.order("faults", {operation: "denied"})
    outcome = account.run("up", stdin=f"{KEY}\n")
    assert (outcome.status, said in outcome.stderr, "not authorized" in outcome.stderr) == (1, True, True), outcome


def broken_network(account, break_it):
    """Break the only VPC; return what up says."""
    ec2 = account.client("ec2")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    break_it(ec2, vpc)
    outcome = account.run("up", stdin=f"{KEY}\n")
    assert (outcome.status, account.calls("aws cloudformation deploy")) == (1, [])
    return outcome.stderr


@pytest.mark.slow
def test_a_vpc_without_dns_is_refused(account):
    said = broken_network(
        account, lambda ec2, vpc: ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": False})
    )
    assert "enableDnsHostnames off" in said


@pytest.mark.slow
def test_a_subnet_without_a_way_to_the_internet_is_refused(account):
    def isolate(ec2, vpc):
        table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        for subnet in ec2.describe_subnets()["Subnets"]:
            ec2.associate_route_table(RouteTableId=table, SubnetId=subnet["SubnetId"])

    assert "has no route to an internet gateway" in broken_network(account, isolate)


@pytest.mark.slow
def test_an_account_without_a_default_vpc_is_told_how_to_get_one(account):
    said = broken_network(account, lambda ec2, vpc: remove_vpc(ec2, vpc))
    assert "has no default VPC" in said
    assert "aws ec2 create-default-vpc" in said


def remove_vpc(ec2, vpc):
    """Remove a VPC with what is in it."""
    for subnet in ec2.describe_subnets()["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    for gateway in ec2.describe_internet_gateways()["InternetGateways"]:
        ec2.detach_internet_gateway(InternetGatewayId=gateway["InternetGatewayId"], VpcId=vpc)
    ec2.delete_vpc(VpcId=vpc)


@pytest.mark.slow
def test_a_vpc_of_ones_own_is_used_and_stays_the_one(account):
    ec2 = account.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="192.0.2.0/24")["Vpc"]["VpcId"]
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    own = {"VPC_ID": vpc}
    for name, block in {"SUBNET_A": "192.0.2.0/26", "SUBNET_B": "192.0.2.64/26"}.items():
        own[name] = ec2.create_subnet(VpcId=vpc, CidrBlock=block)["Subnet"]["SubnetId"]
        ec2.associate_route_table(RouteTableId=table, SubnetId=own[name])
    account.up(**own)
    assert account.service()["networkConfiguration"]["awsvpcConfiguration"]["subnets"] == [
        own["SUBNET_A"],
        own["SUBNET_B"],
    ]
    account.order("forget")
    account.must("up")  # without the variables: it stays where it is
    assert "RegisterTaskDefinition" not in [name for _, name in account.order("calls")]
    outcome = account.run("up", **own | {"SUBNET_A": "subnet-another"})
    assert (outcome.status, f"the demo is in {vpc}" in outcome.stderr) == (1, True)


@pytest.mark.slow
@pytest.mark.parametrize("lacking", ["start-message-move-task", "tail"])
def test_a_cli_that_lacks_an_operation_is_named_with_the_version_to_install(copy, tmp_path, lacking):
    program = tmp_path / "bin" / "aws"
    program.parent.mkdir()
    real = shlex.quote(str(SCRIPT.parents[1] / "tests/deployment/shims/aws"))
    program.write_text(
        f"""#!/usr/bin/env bash
        if [[ $* = --version ]]; then echo aws-cli/2.9.19; exit; fi
        if [[ " $* " = *" {lacking} "* ]]; then echo "aws: error: Found invalid choice" >&2; exit 252; fi
        exec {real} "$@"
        """
    )
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{copy.environment['PATH']}"
    outcome = copy.run("redrive" if "task" in lacking else "logs", PATH=path)
    assert outcome.status == 1
    assert re.search(
        rf"aws-cli/2\.9\.19 lacks \"aws \w+ {lacking}\" .*: install AWS CLI 2\.13 or newer", outcome.stderr
    )


# --- every command fails once, and every command is the last one ----------------------------------------------------

UP = [
    *("GetCallerIdentity", "DescribeStacks", "DescribeServices", "DescribeClusters", "DescribeTaskDefinition"),
    *("GetFunction", "ListEventSourceMappings", "GetMetricStream", "DescribeVpcs", "DescribeSubnets"),
    *("DescribeVpcAttribute", "DescribeRouteTables", "CreateChangeSet", "DescribeChangeSet", "ExecuteChangeSet"),
    *("PutSecretValue", "DescribeImages", "GetAuthorizationToken", "PutImage", "RegisterTaskDefinition"),
    *("CreateService", "CreateFunction", "GetFunctionConfiguration", "UpdateFunctionConfiguration"),
    *("CreateEventSourceMapping", "GetEventSourceMapping", "TagResource"),
]
UPDATE = ["DescribeSecret", "GetTemplateSummary", "UpdateService", "UpdateFunctionCode", "UpdateEventSourceMapping"]
DOWN = [
    *("DeleteEventSourceMapping", "DeleteMetricStream", "DeleteFunction", "DeleteService", "ListTaskDefinitions"),
    *("DeregisterTaskDefinition", "ListInstances", "DescribeNetworkInterfaces", "DeleteStack", "ListTagsForResource"),
]
OTHERS = {
    "ListTasks": ["status"],
    "DescribeTasks": ["status"],
    "FilterLogEvents": ["verify"],
    "PutMetricStream": ["metric-stream"],
    "ReceiveMessage": ["dead-letters"],
    "StartMessageMoveTask": ["redrive"],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", [["up"], ["down", "--yes"]], ids=lambda command: command[0])
def test_a_stack_that_was_never_executed_is_taken_up_again_or_removed(account, empty, command):
    account.order("faults", {"ExecuteChangeSet": "denied"})
    assert account.run("up", stdin=f"{KEY}\n").status == 1
    (stack,) = account.client("cloudformation").describe_stacks()["Stacks"]
    assert (stack["StackStatus"], stack["Tags"]) == ("REVIEW_IN_PROGRESS", [])
    account.order("faults", {})
    account.must(*command, stdin=f"{KEY}\n")
    account.must("down", "--yes")
    assert account.resources() == empty.resources()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["throttled", "denied", "timed out"])
@pytest.mark.parametrize("operation", UP)
def test_up_stops_where_a_request_fails_and_goes_on_when_it_is_called_again(account, operation, kind):
    account.order("faults", {operation: kind})
    outcome = account.run("up", stdin=f"{KEY}\n")
    if operation == "DescribeChangeSet" and kind != "timed out":
        kind = "swallowed"
    check_failure(outcome, kind)
    account.order("faults", {})
    account.up()
    check_deployed(account)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["throttled", "denied", "timed out"])
@pytest.mark.parametrize("operation", UPDATE)
def test_an_update_stops_where_a_request_fails_and_goes_on(copy, operation, kind):
    copy.order("faults", {operation: kind})
    check_failure(copy.run("up", IMAGE_TAG="1.0.1", DESIRED_COUNT="2"), kind)
    copy.order("faults", {})
    copy.must("up", IMAGE_TAG="1.0.1")
    check_deployed(copy, "1.0.1")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["throttled", "denied", "timed out"])
@pytest.mark.parametrize("operation", DOWN)
def test_down_stops_where_a_request_fails_and_goes_on_when_it_is_called_again(copy, empty, operation, kind):
    copy.must("metric-stream", **STREAM)
    copy.order("faults", {operation: kind})
    check_failure(copy.run("down", "--yes"), kind)
    copy.order("faults", {})
    copy.must("down", "--yes")
    assert copy.resources() == empty.resources()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["throttled", "denied", "timed out"])
@pytest.mark.parametrize("operation", OTHERS)
def test_whatever_else_fails_is_a_failure(copy, operation, kind):
    copy.order("faults", {operation: kind})
    check_failure(copy.run(*OTHERS[operation], **STREAM), kind)


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "kind"), [("CreateFunction", "throttled"), ("ExecuteChangeSet", "timed out")])
def test_up_stops_where_a_request_fails_and_goes_on_a_sample(account, operation, kind):
    account.order("faults", {operation: kind})
    check_failure(account.run("up", stdin=f"{KEY}\n"), kind)
    account.order("faults", {})
    account.up()
    check_deployed(account)


def check_failure(outcome, kind):
    """Assert that the script has failed, with AWS's reason and the place where it stopped."""
    reasons = {"throttled": "Rate exceeded", "denied": "not authorized", "timed out": "Read timeout"}
    reason = {**reasons, "swallowed": "\n'Status'\n"}[kind]  # all that "aws cloudformation deploy" then says
    assert outcome.status == 1, outcome
    assert reason in outcome.stderr, outcome
    assert re.search(r"deploy\.sh: [\w-]+ stopped at: .+\. (Run it again|Nothing was changed)", outcome.stderr), outcome


def check_deployed(account, tag="1.0.0"):
    """Assert that everything is there, once, at this version."""
    assert account.service()["taskDefinition"] == account.task_definition()["taskDefinitionArn"]
    assert account.task_definition()["containerDefinitions"][0]["image"].endswith(f":{tag}-amd64")
    assert account.function()["Code"]["ImageUri"].endswith(f":{tag}-amd64")
    assert account.mapping()["State"] == "Enabled"
    account.must("status")


@pytest.mark.slow
def test_every_operation_is_made_to_fail_by_one_of_these_tests(deployed, copy):
    copy.must("up", IMAGE_TAG="1.0.1")
    copy.must("metric-stream", **STREAM)
    copy.must("status")
    copy.must("verify")
    copy.run("key", stdin="another\n")
    copy.must("dead-letters")
    copy.must("redrive")
    copy.must("down", "--yes")
    called = {name for _, name in [*deployed.operations, *copy.order("calls")]}
    of_the_tests = {"ListStacks", "DescribeSecurityGroups", "DescribeRepositories"}
    assert called - of_the_tests == {*UP, *UPDATE, *DOWN, *OTHERS}


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(20))
def test_whatever_is_killed_goes_on_and_leaves_nothing_in_the_end(account, empty, round_):
    """Kill -9 at a random command of up, perhaps again at another one, then up and, perhaps killed as well, down."""
    seed = int(os.environ.get("SEED", random.randrange(10**6))) + round_
    print(f"SEED={seed - round_} repeats this")
    chance = random.Random(seed)
    for _ in range(chance.choice([1, 2])):
        kill(account, chance, "up")
    account.up()
    check_deployed(account)
    if chance.random() < 0.5:
        kill(account, chance, "down", "--yes")
    account.must("down", "--yes")
    assert account.resources() == empty.resources()


def kill(account, chance, *command):
    """Kill -9 the script and what it has started at a random command; AWS goes on with the request it has got."""
    start = len(account.calls())
    environment = {
        **account.environment,
        **VARIABLES,
        "KILL_AT": str(start + chance.choice(range(1, 60)) + chance.choice([0, 0.5])),
    }
    print("killed at", environment["KILL_AT"], "of", command)
    done = subprocess.run(
        [account.bash, SCRIPT, *command],
        input=f"{KEY}\n",
        env=environment,
        capture_output=True,
        text=True,
        cwd=account.directory,
        start_new_session=True,
    )
    assert done.returncode in (0, -signal.SIGKILL), done


@pytest.mark.slow
def test_nothing_is_made_twice_by_a_run_that_was_killed(account):
    """Killed in the moment between AWS's making of something and the script's knowledge of it."""
    account.order("forget")
    made = ["deploy", "create-function", "create-service", "create-event-source-mapping", "register-task-definition"]
    for command in made:
        environment = {**account.environment, **VARIABLES, "KILL_AFTER": command}
        subprocess.run(
            [account.bash, SCRIPT, "up"],
            input=f"{KEY}\n",
            env=environment,
            capture_output=True,
            text=True,
            cwd=account.directory,
            start_new_session=True,
        )
    account.up()
    names = collections.Counter(name for _, name in account.order("calls") if name.startswith("Create"))
    assert names["CreateFunction"] == names["CreateService"] == names["CreateEventSourceMapping"] == 1
    check_deployed(account)


# --- other programs -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_other_versions_of_aws_and_bash_do_the_same(other, empty):
    if other is None:
        pytest.skip("not installed")
    other.up()
    check_deployed(other)
    assert other.must("up").count("unchanged") == 5
    other.must("verify")
    other.must("key", stdin="another\n")
    other.must("logs")
    other.must("dead-letters")
    redrive = other.run("redrive")
    assert redrive.status == 0 or 'lacks "aws sqs start-message-move-task"' in redrive.stderr  # Debian's 2.9.19
    other.must("metric-stream", **STREAM)
    other.must("up", IMAGE_TAG="1.0.1", DESIRED_COUNT="2")
    check_deployed(other, "1.0.1")
    other.must("down", "--yes")
    assert other.resources() == empty.resources()
