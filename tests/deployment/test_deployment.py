"""infrastructure/deploy.sh, executed with the real aws program: up, again, an update, everything in between, down.

AWS is emulator.py. What it leaves out is judged by cfn-lint and tests/contract/test_deployment.py instead: the alarm,
egress rules, scan on push, the redrive allow policy, the permission for Lambda to pull, and what permissions permit.
"""

import contextlib
import json
import re
import shlex
import sys

import pytest
import yaml

import readmes
import shipped
from account import KEY, STREAM, VARIABLES
from event_source_mapping import EventSourceMapping
from stack import TOOLS, Child, free_port, poll_until

REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"  # of the only account
IMAGES = {
    "cal-onboarding-api": "onboarding-api",
    "cal-otel-collector": "otel",
    "cal-onboarding-lambda": "onboarding-lambda",
}
OWNER = "cal-onboarding/deploy.sh"
READING = re.compile(r"(Describe|Get|List|Head|Batch(Get|Check)|Lookup)\w*|CreateChangeSet|DeleteChangeSet")


def changes(account):
    """Return the operations since the last order "forget" that change something."""
    return [name for _, name in account.order("calls") if not READING.fullmatch(name)]


def contains(actual, expected):
    """Return whether actual has everything that expected has, at any depth; AWS adds its defaults."""
    if isinstance(expected, dict):
        return all(name in actual and contains(actual[name], value) for name, value in expected.items())
    if isinstance(expected, list):
        return len(actual) == len(expected) and all(map(contains, actual, expected))
    return actual == expected


def placeholders(account):
    """Return the value of every placeholder of the JSON files."""
    output = account.output()
    return (
        VARIABLES
        | output
        | {
            "ACCOUNT_ID": "123456789012",
            "ARCH": "amd64",
            "ECR_REPO": REGISTRY,
            "CPU_ARCHITECTURE": "X86_64",
            "LAMBDA_ARCHITECTURE": "x86_64",
            "SUBNET_A": output["STACK_SUBNET_A"],
            "SUBNET_B": output["STACK_SUBNET_B"],
            "TASK_DEFINITION_ARN": account.task_definition()["taskDefinitionArn"],
        }
    )


def test_up_builds_each_image_once_for_the_architecture_and_pushes_it(deployed):
    options = "--platform linux/amd64 --provenance=false --sbom=false"
    assert deployed.calls("docker build ") == [
        f"docker build {options} -t {REGISTRY}/{name}:1.0.0-amd64 -f {folder}/Dockerfile ."
        for name, folder in IMAGES.items()
    ]
    for name in IMAGES:
        (image,) = deployed.client("ecr").describe_images(repositoryName=name)["imageDetails"]
        assert image["imageTags"] == ["1.0.0-amd64"]


def test_a_message_has_five_tries_and_then_waits_in_the_dead_letter_queue(deployed):
    queue, dead_letter_queue = deployed.queue("cal-onboarding-queue"), deployed.queue("cal-onboarding-dlq")
    redrive = {"deadLetterTargetArn": dead_letter_queue["QueueArn"], "maxReceiveCount": 5}
    assert json.loads(queue["RedrivePolicy"]) == redrive
    assert int(queue["VisibilityTimeout"]) >= 6 * deployed.function()["Timeout"]
    assert int(dead_letter_queue["MessageRetentionPeriod"]) == 14 * 24 * 60 * 60


def test_what_runs_is_the_files_with_their_placeholders_filled_in(deployed):
    variables = placeholders(deployed)
    assert contains(deployed.task_definition(), shipped.render(shipped.read_json("taskdef.json"), variables))
    assert contains(deployed.function(), shipped.render(shipped.read_json("lambda.json"), variables))
    assert deployed.function()["Environment"]["Variables"] == shipped.lambda_environment(variables)
    mapping = shipped.render(shipped.read_json("event-source-mapping.json"), variables)
    assert deployed.mapping()["FunctionArn"].endswith(f":{mapping.pop('FunctionName')}")
    assert contains(deployed.mapping(), mapping)
    service = shipped.render(shipped.read_json("service.json"), variables)
    for name in ("cluster", "deploymentConfiguration"):  # the first becomes clusterArn, the emulator forgets the second
        del service[name]
    assert contains(deployed.service(), service)
    assert (deployed.service()["desiredCount"], deployed.service()["runningCount"]) == (1, 1)


def test_the_function_sends_to_the_name_under_which_the_service_registers(deployed):
    cloud_map = deployed.client("servicediscovery")
    (name,), (namespace,) = cloud_map.list_services()["Services"], cloud_map.list_namespaces()["Namespaces"]
    assert deployed.service()["serviceRegistries"] == [{"registryArn": name["Arn"]}]
    assert (namespace["Type"], name["DnsConfig"]["DnsRecords"]) == ("DNS_PRIVATE", [{"Type": "A", "TTL": 10}])
    namespace = cloud_map.get_namespace(Id=namespace["Id"])["Namespace"]
    assert namespace["Properties"]["DnsProperties"]["SOA"] == {"TTL": 10}
    endpoint = deployed.function()["Environment"]["Variables"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert endpoint == f"http://{name['Name']}.{namespace['Name']}:4317"


def test_only_the_client_reaches_the_api_and_only_the_function_the_collector(deployed):
    api, function = deployed.security_group("cal-onboarding-api"), deployed.security_group("cal-onboarding-lambda")
    sources = {
        (rule["FromPort"], rule["ToPort"]): [*rule["IpRanges"], *rule["UserIdGroupPairs"]]
        for rule in api["IpPermissions"]
    }
    assert sources == {
        (8000, 8000): [{"CidrIp": "203.0.113.7/32"}],  # what the shim of curl says is the client's address
        (4317, 4317): [{"UserId": "123456789012", "GroupId": function["GroupId"]}],
    }
    assert function["IpPermissions"] == []


def test_the_roles_are_those_of_the_stack_whatever_it_has_called_them(deployed):
    task, function = deployed.task_definition(), deployed.function()
    used = [task["taskRoleArn"], task["executionRoleArn"], function["Role"]]
    roles = deployed.client("iam").list_roles()["Roles"]
    assert sorted(used) == sorted(role["Arn"] for role in roles)
    assert [role["RoleName"] for role in roles if not role["RoleName"].startswith("cal-onboarding-")] == []


def test_everything_that_the_cli_makes_says_who_made_it(deployed):
    ecs = deployed.client("ecs")
    task = ecs.describe_task_definition(taskDefinition="cal-onboarding-api-demo", include=["TAGS"])["tags"]
    (stack,) = deployed.client("cloudformation").describe_stacks()["Stacks"]
    assert {"key": "deployer", "value": OWNER} in task
    assert {"key": "deployer", "value": OWNER} in deployed.service()["tags"]
    assert deployed.function()["Tags"]["deployer"] == OWNER
    assert stack["Tags"] == [{"Key": "deployer", "Value": OWNER}]  # CloudFormation gives it to all of its resources


def test_the_key_is_in_the_secret_and_nowhere_else(deployed):
    secret = deployed.client("secretsmanager").get_secret_value(SecretId="cal-onboarding-coralogix-key")
    assert secret["SecretString"] == KEY
    template = deployed.client("cloudformation").get_template(StackName="cal-onboarding")
    seen = [template, deployed.task_definition(), deployed.function(), deployed.calls(), deployed.printed]
    assert KEY not in str(seen)
    assert [path for path in deployed.directory.rglob("*") if path.is_file() and KEY in path.read_text()] == []


def test_a_message_in_the_deployed_queue_is_processed_by_the_function(copy):
    function, sqs, mapping = copy.client("lambda"), copy.client("sqs"), copy.mapping()
    assert mapping["State"] == "Enabled"
    function.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)  # the emulator's is nothing like Lambda's
    api = next(c for c in copy.task_definition()["containerDefinitions"] if c["name"] == "onboarding-api")
    queue_url = next(entry["value"] for entry in api["environment"] if entry["name"] == "QUEUE_URL")
    body = json.dumps({"customer_id": "TEST-001", "request_id": "1", "source": "smoke"})
    message_id = sqs.send_message(QueueUrl=queue_url, MessageBody=body)["MessageId"]
    with emulated(copy) as (child, invoke_url), EventSourceMapping(sqs, queue_url, invoke_url, mapping["BatchSize"]):
        line = f"onboarded customer_id=TEST-001 request_id=1 message_id={message_id}"
        poll_until(lambda: line in child.log_file.read_text(), "the function to process the message")
        poll_until(lambda: in_queue(copy) == 0, "the message to be deleted")


@contextlib.contextmanager
def emulated(account):
    """The Lambda emulator with the deployed configuration, but no Collector; yields the process and its URL."""
    function, port = account.function(), free_port()
    command = [TOOLS / "aws-lambda-rie", f"--runtime-interface-emulator-address=127.0.0.1:{port}"]
    command += [f"--runtime-api-address=127.0.0.1:{free_port()}", sys.executable, "-m", "awslambdaric"]
    command += shipped.start_command("onboarding-lambda/Dockerfile")
    environment = function["Environment"]["Variables"] | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "AWS_REGION": "us-east-1",
        "AWS_LAMBDA_FUNCTION_NAME": function["FunctionName"],
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(function["Timeout"]),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function["MemorySize"]),
    }
    url, folder = f"http://127.0.0.1:{port}", shipped.ROOT / "onboarding-lambda"
    with Child("function", command, url, environment, account.directory, folder, status=404) as child:
        yield child, f"{url}/2015-03-31/functions/function/invocations"


def in_queue(account):
    """Return how many messages are in the queue, those in flight included."""
    queue = account.queue("cal-onboarding-queue")
    return int(queue["ApproximateNumberOfMessages"]) + int(queue["ApproximateNumberOfMessagesNotVisible"])


@pytest.fixture(scope="module")
def updated(deployed, tmp_path_factory):
    """An account after an update that brought a version, a second task and other clients."""
    account = deployed.fork(tmp_path_factory.mktemp("updated") / "1")
    account.must("up", IMAGE_TAG="1.0.1", DESIRED_COUNT="2", CLIENT_CIDR="198.51.100.0/24")  # does not ask for the key
    account.operations = account.order("calls")
    yield account
    account.end()


def test_an_update_brings_the_new_version_everywhere(updated):
    task, function, service = updated.task_definition(), updated.function(), updated.service()
    assert (task["revision"], service["taskDefinition"]) == (2, task["taskDefinitionArn"])
    assert {c["image"].split(":")[1] for c in task["containerDefinitions"]} == {"1.0.1-amd64"}
    assert function["Code"]["ImageUri"] == f"{REGISTRY}/cal-onboarding-lambda:1.0.1-amd64"
    assert "service.version=1.0.1" in function["Environment"]["Variables"]["OTEL_RESOURCE_ATTRIBUTES"]
    assert (service["desiredCount"], service["runningCount"]) == (2, 2)
    rules = updated.security_group("cal-onboarding-api")["IpPermissions"]
    assert [r["IpRanges"] for r in rules if r["FromPort"] == 8000] == [[{"CidrIp": "198.51.100.0/24"}]]


def test_up_again_changes_nothing_and_keeps_what_was_chosen_before(updated):
    updated.order("forget")
    built = updated.calls("docker build ")
    printed = updated.must("up", IMAGE_TAG="1.0.1")
    assert changes(updated) == []
    assert printed.count("unchanged") == 5  # task, service, function, its variables, mapping
    assert printed.count("exists") == 3  # the images
    assert updated.calls("docker build ") == built
    assert updated.must("status").count(":8000 for 198.51.100.0/24") == 2


@pytest.mark.slow
def test_another_architecture_under_the_same_version_is_another_image(copy):
    copy.must("up", ARCH="arm64")
    for name in IMAGES:
        tags = {
            t for i in copy.client("ecr").describe_images(repositoryName=name)["imageDetails"] for t in i["imageTags"]
        }
        assert tags == {"1.0.0-amd64", "1.0.0-arm64"}
    assert [line for line in copy.calls("docker build ") if "--platform linux/arm64 " not in line] == []
    assert copy.task_definition()["runtimePlatform"]["cpuArchitecture"] == "ARM64"
    assert (copy.function()["Architectures"], copy.function()["Code"]["ImageUri"][-5:]) == (["arm64"], "arm64")


def test_down_removes_everything_after_what_uses_it_and_nothing_twice(copy, empty):
    copy.must("metric-stream", **STREAM)
    printed = copy.must("down", "--yes")
    assert "What remains: the inactive revisions of the task definition" in printed
    assert copy.resources() == empty.resources()
    order = [line for line in copy.calls() if line.startswith(("sleep", "aws cloudformation delete-stack"))]
    assert order[0].startswith("sleep")  # for the interfaces of the function
    assert order[-1].startswith("aws cloudformation delete-stack")
    assert "nothing was removed. Is AWS_REGION right?" in copy.must("down", "--yes")
    assert copy.calls("aws cloudformation delete-stack") == order[-1:]


@pytest.mark.parametrize("reply", ["y\n", *(pytest.param(r, marks=pytest.mark.slow) for r in ("", "no\n"))])
def test_down_asks_with_region_and_account(copy, reply):
    before = copy.resources()
    outcome = copy.run("down", stdin=reply)
    assert "from us-east-1 of account 123456789012? Type yes: " in outcome.stderr
    assert (outcome.status, copy.resources()) == (1, before)


# --- while it runs --------------------------------------------------------------------------------------------------


def test_verify_follows_one_trace_through_both_programs(copy):
    printed = copy.must("verify")
    (trace,) = re.findall(r'"trace_id": "([0-9a-f]{32})"', printed)
    for line in (f"PRODUCER trace_id={trace}", f"extracted traceparent 00-{trace}", "Flush complete accepted=2"):
        assert line in printed
    assert 'service.name:("onboarding-api" OR "onboarding-lambda")' in printed
    (curl,) = copy.calls("curl")
    interfaces = copy.client("ec2").describe_network_interfaces()["NetworkInterfaces"]
    (address,) = [i["Association"]["PublicIp"] for i in interfaces if "Association" in i]  # of the only task
    assert f"-X POST http://{address}:8000/telemetry/smoke -H Content-Type: application/json -d" in curl


@pytest.mark.slow
@pytest.mark.parametrize(
    ("behaviour", "variables", "said"),
    [
        ({"flush": "incomplete remaining=2"}, {}, "the function could not send its spans to the Collector"),
        ({"collector": ["error rpc error: code = Unauthenticated"]}, {}, "the Collector says: "),
        ({}, {"API_IS_CLOSED": "yes"}, "It is open to 203.0.113.7/32 and this machine has 203.0.113.7"),
    ],
    ids=lambda case: "".join(case) if isinstance(case, dict) else "",
)
def test_verify_says_where_the_trace_ends(copy, behaviour, variables, said):
    copy.order("behaviour", behaviour)
    outcome = copy.run("verify", **variables)
    assert (outcome.status, said in outcome.stderr) == (1, True), outcome


def test_a_new_key_is_put_into_the_secret_and_the_tasks_are_started_anew(copy):
    before = copy.service()["deployments"][0]["id"]
    outcome = copy.run("key", stdin="another-key\n")
    secret = copy.client("secretsmanager").get_secret_value(SecretId="cal-onboarding-coralogix-key")
    assert (outcome.status, secret["SecretString"]) == (0, "another-key"), outcome
    assert copy.service()["deployments"][0]["id"] != before
    assert "another-key" not in str([outcome, copy.calls()])


@pytest.mark.slow
@pytest.mark.parametrize("key", ["", "\n", "with a space\n", "with-a-return\r\n", "\ttab\n"])
def test_a_key_that_can_be_none_is_refused(copy, key):
    outcome = copy.run("key", stdin=key)
    secret = copy.client("secretsmanager").get_secret_value(SecretId="cal-onboarding-coralogix-key")
    assert (outcome.status, secret["SecretString"]) == (1, KEY)
    assert "the Coralogix key" in outcome.stderr


@pytest.mark.slow
def test_the_logs_of_all_three_are_shown(copy):
    groups = ["/ecs/cal-onboarding-api", "/aws/lambda/cal-onboarding-lambda", "/ecs/cal-otel-collector"]
    for group in groups:
        copy.order("log", {"group": group, "message": f"a line in {group}"})
    printed = copy.must("logs", "1h")
    assert [group for group in groups if f"a line in {group}" not in printed] == []
    assert copy.calls("aws logs tail /") == [f"aws logs tail {group} --since 1h" for group in groups]


@pytest.mark.slow
def test_dead_letters_are_shown_with_their_trace_context_and_go_back_to_their_queue(copy):
    sqs, url = copy.client("sqs"), copy.queue("cal-onboarding-dlq")["Url"]
    context = {"traceparent": {"DataType": "String", "StringValue": "00-1-2-01"}}
    sqs.send_message(QueueUrl=url, MessageBody="dead", MessageAttributes=context)
    for _ in range(2):  # looking hides nothing
        (message,) = json.loads(copy.must("dead-letters"))["Messages"]
        assert (message["Body"], message["MessageAttributes"]["traceparent"]["StringValue"]) == ("dead", "00-1-2-01")
    assert "a new message id" in copy.must("redrive")
    assert in_queue(copy) == 1


@pytest.mark.slow
def test_the_metric_stream_is_made_once_and_is_ours(copy):
    for _ in range(2):
        copy.must("metric-stream", **STREAM)
    assert copy.order("metric-streams") == ["cal-onboarding"]
    assert re.search(r"metric stream +running", copy.must("status"))


@pytest.mark.slow
def test_status_says_what_is_wrong(copy):
    copy.client("lambda").update_event_source_mapping(UUID=copy.mapping()["UUID"], Enabled=False)
    copy.order("behaviour", {"tasks fail": True})
    assert copy.run("up", IMAGE_TAG="1.0.1").status == 1
    outcome = copy.run("status")
    assert outcome.status == 3
    assert "wrong: the service was rolled back: cal-onboarding-api-demo:2 is newer" in outcome.stdout
    assert "wrong: the function is not called: its event source mapping is not enabled" in outcome.stdout


@pytest.mark.slow
def test_nothing_is_deployed_where_nothing_is(account):
    assert "nothing is deployed" in account.must("status")
    for command in ("verify", "key", "logs", "dead-letters", "redrive"):
        outcome = account.run(command, stdin="key\n")
        assert (outcome.status, "nothing is deployed in us-east-1 of account" in outcome.stderr) == (1, True)


# --- how it is called -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "variables", "said"),
    [
        (["nonsense"], {}, "'nonsense' is not a command"),
        (["up", "now"], {}, "'up now' is not a command"),
        (["down", "--now"], {}, "'down --now' is not a command"),
        (["up"], {"AWS_REGION": None}, "AWS_REGION is not set"),
        (["up"], {"AWS_REGION": "us east"}, "AWS_REGION us east is not the name of a region"),
        (["up"], {"CORALOGIX_DOMAIN": ""}, "CORALOGIX_DOMAIN is not set"),
        (["up"], {"IMAGE_TAG": None}, "IMAGE_TAG is not set"),
        (["up"], {"IMAGE_TAG": "a b"}, "IMAGE_TAG a b can't be the tag of an image"),
        (["up"], {"DESIRED_COUNT": "two"}, "DESIRED_COUNT two is not a number"),
        (["up"], {"ARCH": "riscv64"}, "ARCH riscv64 is neither amd64 nor arm64"),
        (["metric-stream"], {"FIREHOSE_ARN": "x"}, "METRIC_STREAM_ROLE_ARN is not set"),
    ],
    ids=lambda case: " ".join(case) if isinstance(case, list) else "",
)
def test_a_wrong_call_is_named_and_calls_nothing(account, command, variables, said):
    outcome = account.run(*command, **variables)
    assert (outcome.status, said in outcome.stderr, account.calls()) == (2, True, []), outcome


def test_help_is_the_header(account):
    printed = account.must("help", AWS_REGION=None)
    assert printed.startswith("Deploys this demo to AWS")
    for command in ("up", "status", "verify", "key", "logs", "dead-letters", "redrive", "metric-stream", "down"):
        assert re.search(rf"^  {command}\b", printed, re.MULTILINE)
    assert account.must() == printed


# What CloudFormation calls with the deployer's permissions, for the types in foundation.yaml.
BY_CLOUDFORMATION = {
    "AWS::CloudWatch::Alarm": "cloudwatch: DeleteAlarms DescribeAlarms PutMetricAlarm TagResource",
    "AWS::EC2::SecurityGroup": "ec2: AuthorizeSecurityGroupEgress CreateSecurityGroup CreateTags DeleteSecurityGroup "
    "DescribeSecurityGroups RevokeSecurityGroupEgress",
    "AWS::EC2::SecurityGroupIngress": "ec2: AuthorizeSecurityGroupIngress RevokeSecurityGroupIngress",
    "AWS::ECR::Repository": "ecr: CreateRepository DeleteRepository DescribeRepositories GetRepositoryPolicy "
    "ListTagsForResource PutImageScanningConfiguration PutImageTagMutability SetRepositoryPolicy TagResource",
    "AWS::ECS::Cluster": "ecs: CreateCluster DeleteCluster DescribeClusters TagResource",
    "AWS::IAM::Role": "iam: CreateRole DeleteRole DeleteRolePolicy GetRole GetRolePolicy PutRolePolicy TagRole "
    "UpdateAssumeRolePolicy",
    "AWS::Logs::LogGroup": "logs: CreateLogGroup DeleteLogGroup DescribeLogGroups ListTagsForResource "
    "PutRetentionPolicy TagResource",
    "AWS::SQS::Queue": "sqs: CreateQueue DeleteQueue GetQueueAttributes GetQueueUrl ListQueueTags SetQueueAttributes "
    "TagQueue",
    "AWS::SecretsManager::Secret": "secretsmanager: CreateSecret DeleteSecret DescribeSecret TagResource UpdateSecret",
    "AWS::ServiceDiscovery::PrivateDnsNamespace": "servicediscovery: CreatePrivateDnsNamespace DeleteNamespace "
    "GetNamespace GetOperation ListNamespaces ListTagsForResource TagResource UpdatePrivateDnsNamespace",
    "AWS::ServiceDiscovery::Service": "servicediscovery: CreateService DeleteService GetService ListServices "
    "UpdateService",
}
# What an operation needs besides the permission of its own name.
BESIDES = {
    "ecr:PutImage": "ecr: BatchCheckLayerAvailability BatchGetImage CompleteLayerUpload InitiateLayerUpload "
    "UploadLayerPart",
    "ecs:CreateService": "iam: CreateServiceLinkedRole PassRole",
    "lambda:CreateFunction": "ecr: BatchGetImage GetDownloadUrlForLayer",
    "lambda:GetFunction": "lambda: ListTags",  # without it the function has no tags, and is nobody's
    "servicediscovery:CreatePrivateDnsNamespace": "route53: AssociateVPCWithHostedZone CreateHostedZone "
    "DeleteHostedZone GetHostedZone ListHostedZonesByName ec2:DescribeRegions",
    "sqs:StartMessageMoveTask": "sqs: DeleteMessage ReceiveMessage SendMessage",
}
NEEDS_NOTHING = {"sts:GetCallerIdentity"}
WHEN_IT_FAILS = {"cloudformation:DescribeStackEvents"}


def actions(text):
    """Return the IAM actions of "service: Operation Operation other:Operation"."""
    service, names = text.split(": ")
    return {name if ":" in name else f"{service}:{name}" for name in names.split()}


@pytest.mark.slow
def test_the_deployers_policy_permits_what_was_called_and_nothing_else(deployed, updated):
    account = updated.fork(updated.directory / "copy")
    account.must("metric-stream", **STREAM)
    for command in (["status"], ["verify"], ["logs"], ["dead-letters"], ["redrive"], ["down", "--yes"]):
        account.must(*command)
    called = {
        f"{service}:{name}" for service, name in [*deployed.operations, *updated.operations, *account.order("calls")]
    }
    account.end()
    template = yaml.safe_load((shipped.ROOT / "infrastructure/foundation.yaml").read_text())
    types = {resource["Type"] for resource in template["Resources"].values()}
    assert types == set(BY_CLOUDFORMATION)
    needed = (called - NEEDS_NOTHING | WHEN_IT_FAILS).union(*map(actions, BY_CLOUDFORMATION.values()))
    needed = needed.union(*(actions(text) for name, text in BESIDES.items() if name in needed))
    policy = json.loads((shipped.ROOT / "infrastructure/deployer-policy.json").read_text())["Statement"]
    assert {action for statement in policy for action in statement["Action"]} == needed


def test_a_readme_shows_what_was_executed(deployed):
    shown = commands("\n".join(readmes.blocks("bash", readmes.FRONT_PAGE)))
    executed = [executed_words(line) for line in deployed.calls()]
    assert len(shown) >= 8
    assert [line for line in shown if not any(line == words[: len(line)] for words in executed)] == []
    named = set(re.findall(r"`aws ([a-z]+ [a-z-]+)`", readmes.TEXTS[readmes.AWS]))
    assert named == {"cloudformation deploy", "ecs register-task-definition", "lambda create-function"} | {
        "lambda create-event-source-mapping"
    }
    assert named <= {" ".join(words[1:3]) for words in executed}


def commands(text):
    """Return the docker and aws commands as lists of words, with the variables of the test's account."""
    variables = VARIABLES | {"ARCH": "amd64", "ECR_REPO": REGISTRY, "DESIRED_COUNT": "1"}
    lines = re.findall(r"^(?:docker (?:build|push)|aws) .*", text.replace("\\\n", " "), re.MULTILINE)
    return [shlex.split(re.sub(r"\$([A-Z_]+)", lambda name: variables[name[1]], line)) for line in lines]


def executed_words(line):
    """Return a recorded command as a list of words, with the rendered files under their own names."""
    return [re.sub(r"^file:///\S+/", "file://", word) for word in shlex.split(line)]
