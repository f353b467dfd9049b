"""The README's deployment, executed: its own shell blocks, in its order, in one shell, with the real aws program.

AWS is moto server, see account.py; what moto or aws lacks is in shims/.
Parts of the template that moto leaves out are judged by cfn-lint and tests/contract/test_deployment.py instead: the
alarm, egress rules, scan on push, EmptyOnDelete, the redrive allow policy and the permission for Lambda to pull.
"""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import yaml

import readmes
import shipped
from account import Account, Shell
from event_source_mapping import EventSourceMapping
from stack import TOOLS, Child, free_port, poll_until

KEY = "the-key-that-nobody-may-see"
REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"  # of moto's only account
IMAGES = {
    "cal-onboarding-api": "onboarding-api",
    "cal-otel-collector": "otel",
    "cal-onboarding-lambda": "onboarding-lambda",
}


def blocks(heading):
    """Return the bash blocks of the README's section with that heading, the sections below it included."""
    return re.findall(r"^```bash\n(.*?)^```$", readmes.section(readmes.AWS, heading), re.MULTILINE | re.DOTALL)


VARIABLES, FUNCTIONS, *CREATE = blocks("## Deploy")
FOUNDATION, SECRET, NAMESPACE, LOOKUP, API_IMAGES, SERVICE, FUNCTION, ENVIRONMENT, MAPPING = CREATE
SMOKE, TRAFFIC, LOGS, DEAD_LETTERS, REDRIVE, METRIC_STREAM = blocks("## Operate")
UPDATE, REMOVE = blocks("## Update and remove")
USE = [METRIC_STREAM, SMOKE, TRAFFIC, LOGS, DEAD_LETTERS, REDRIVE, UPDATE, REMOVE]


def aws_v2():
    """Return [the path of an aws program of version 2] where one is installed, and [] elsewhere."""
    program = shutil.which("aws")
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout if program else ""
    return [program] if version.startswith("aws-cli/2.") else []


@pytest.fixture(scope="module", params=[None, *aws_v2()], ids=lambda path: "aws v2" if path else "aws v1")
def account(request, tmp_path_factory):
    """An empty account."""
    with Account(tmp_path_factory.mktemp("deployment"), request.param) as account:
        yield account


@pytest.fixture(scope="module")
def shell(account):
    """The shell into which the whole README is pasted."""
    with Shell(account.directory, account.environment) as shell:
        yield shell


@pytest.fixture(scope="module")
def deployed(account, shell):
    """What happened while everything was deployed: each block without each of its variables, then twice."""
    seen = SimpleNamespace(empty=account.resources(), incomplete=[], again={})
    shell.must(VARIABLES)
    shell.must(FUNCTIONS)
    for block in CREATE:
        seen.incomplete += without_each_variable(account, shell, block)
        shell.must(block, stdin=f"{KEY}\n")
        resources = account.resources()
        seen.again[block] = shell.must(block)
        assert account.resources() == resources
    return seen


def without_each_variable(account, shell, block):
    """Run a block once without each variable it checks; return [(block, name, outcome, calls made all the same)]."""
    outcomes = []
    for name in sorted(set(re.findall(r"\$\{(\w+):\?\}", block))):
        calls = account.calls()
        outcome = shell.run(f"(\nunset {name}\n{block}\n)")
        outcomes.append((block, name, outcome, account.calls()[len(calls) :]))
    return outcomes


def test_a_block_stops_with_the_name_of_a_variable_that_is_unset(account, shell, deployed):
    shell.must("export FIREHOSE_ARN=arn:aws:firehose:::x METRIC_STREAM_ROLE_ARN=arn:aws:iam::123456789012:role/x")
    incomplete = deployed.incomplete + [
        outcome for block in USE for outcome in without_each_variable(account, shell, block)
    ]
    assert len(incomplete) > 40
    for block, name, outcome, calls in incomplete:
        assert f"{name}: " in outcome.stderr
        if block != LOOKUP:  # it sets variables, so it is not a subshell, and goes on to the next
            assert (outcome.status != 0, calls) == (True, [])


def test_a_block_pasted_twice_says_what_exists(deployed):
    said = "".join(deployed.again.values())
    assert [name for name in IMAGES if f"image {name}:1.0.0 exists" not in said] == []
    named = re.findall(r"echo ['\"](.*) exists", "".join(CREATE))
    assert len(named) == 7
    assert [name for name in named if f"{name.split(' $')[0]}" not in said] == []


def test_each_image_is_built_once_for_the_architecture_and_pushed_under_its_tag(account, deployed):
    options = "--platform linux/amd64 --provenance=false --sbom=false"
    assert account.calls("docker build") == [
        f"docker build {options} -t {REGISTRY}/{name}:1.0.0 -f {folder}/Dockerfile ." for name, folder in IMAGES.items()
    ]
    for name in IMAGES:
        (image,) = account.client("ecr").describe_images(repositoryName=name)["imageDetails"]
        assert image["imageTags"] == ["1.0.0"]


def test_a_message_has_five_tries_and_then_waits_in_the_dead_letter_queue(account, deployed):
    queue, dead_letter_queue = account.queue("cal-onboarding-queue"), account.queue("cal-onboarding-dlq")
    redrive = {"deadLetterTargetArn": dead_letter_queue["QueueArn"], "maxReceiveCount": 5}
    assert json.loads(queue["RedrivePolicy"]) == redrive
    assert int(queue["VisibilityTimeout"]) >= 6 * account.function()["Timeout"]
    assert int(dead_letter_queue["MessageRetentionPeriod"]) == 14 * 24 * 60 * 60


def test_the_task_definition_is_the_file_with_its_placeholders_filled_in(account, deployed):
    variables = {
        "ACCOUNT_ID": "123456789012",
        "AWS_REGION": "us-east-1",
        "IMAGE_TAG": "1.0.0",
        "ECR_REPO": REGISTRY,
        "CPU_ARCHITECTURE": "X86_64",
        "CORALOGIX_DOMAIN": "us2.coralogix.com",
        "CORALOGIX_SECRET_ARN": account.client("secretsmanager").list_secrets()["SecretList"][0]["ARN"],
        "QUEUE_URL": account.queue("cal-onboarding-queue")["Url"],
    }
    assert contains(account.task_definition(), shipped.render(shipped.read_json("taskdef.json"), variables))


def contains(actual, expected):
    """Return whether actual has everything that expected has, at any depth; AWS adds its defaults."""
    if isinstance(expected, dict):
        return all(name in actual and contains(actual[name], value) for name, value in expected.items())
    if isinstance(expected, list):
        return len(actual) == len(expected) and all(map(contains, actual, expected))
    return actual == expected


def test_the_service_keeps_one_task_on_fargate_with_a_public_address(account, deployed):
    service = account.service()
    network = service["networkConfiguration"]["awsvpcConfiguration"]
    assert (service["launchType"], service["desiredCount"], network["assignPublicIp"]) == ("FARGATE", 1, "ENABLED")
    assert account.task_definition(service["taskDefinition"]) == account.task_definition()
    assert network["securityGroups"] == [account.security_group("cal-onboarding-api")["GroupId"]]
    assert len(set(network["subnets"])) == 2


def test_the_function_is_the_file_in_the_services_subnets(account, deployed):
    function, network = account.function(), account.service()["networkConfiguration"]["awsvpcConfiguration"]
    variables = {
        "ACCOUNT_ID": "123456789012",
        "IMAGE_TAG": "1.0.0",
        "ECR_REPO": REGISTRY,
        "LAMBDA_ARCHITECTURE": "x86_64",
        "LAMBDA_SECURITY_GROUP_ID": account.security_group("cal-onboarding-lambda")["GroupId"],
        **dict(zip(["SUBNET_A", "SUBNET_B"], network["subnets"], strict=True)),
    }
    assert contains(function, shipped.render(shipped.read_json("lambda.json"), variables))
    assert function["Environment"]["Variables"] == shipped.lambda_environment(variables)


def test_the_function_sends_to_the_name_under_which_the_service_registers(account, deployed):
    cloud_map = account.client("servicediscovery")
    (name,), (namespace,) = cloud_map.list_services()["Services"], cloud_map.list_namespaces()["Namespaces"]
    assert account.service()["serviceRegistries"] == [{"registryArn": name["Arn"]}]
    assert (namespace["Type"], name["DnsConfig"]["DnsRecords"]) == ("DNS_PRIVATE", [{"Type": "A", "TTL": 10}])
    endpoint = account.function()["Environment"]["Variables"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert endpoint == f"http://{name['Name']}.{namespace['Name']}:4317"


def test_only_the_client_reaches_the_api_and_only_the_function_the_collector(account, deployed):
    api, function = account.security_group("cal-onboarding-api"), account.security_group("cal-onboarding-lambda")
    sources = {
        (rule["FromPort"], rule["ToPort"]): [*rule["IpRanges"], *rule["UserIdGroupPairs"]]
        for rule in api["IpPermissions"]
    }
    assert sources == {
        (8000, 8000): [{"CidrIp": "203.0.113.7/32"}],  # what the shim of curl says is the client's address
        (4317, 4317): [{"UserId": "123456789012", "GroupId": function["GroupId"]}],
    }
    assert function["IpPermissions"] == []


def test_the_roles_are_those_of_the_stack_and_name_what_is_deployed(account, deployed):
    iam, task, function = account.client("iam"), account.task_definition(), account.function()
    used = [task["taskRoleArn"], task["executionRoleArn"], function["Role"]]
    assert sorted(used) == sorted(role["Arn"] for role in iam.list_roles()["Roles"])

    def resource(role, policy, action):
        document = yaml.safe_load(
            iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
        )  # moto: not JSON
        (statement,) = (statement for statement in document["Statement"] if action in statement["Action"])
        return statement["Resource"]

    queue = account.queue("cal-onboarding-queue")["QueueArn"]
    assert resource("cal-onboarding-api-task", "send", "sqs:SendMessage") == queue
    assert resource("cal-onboarding-lambda", "run", "sqs:ReceiveMessage") == queue
    secret = resource("cal-onboarding-api-execution", "start-task", "secretsmanager:GetSecretValue")
    arn = account.client("secretsmanager").list_secrets()["SecretList"][0]["ARN"]
    assert arn[:-6] + "??????" == secret


def test_the_key_is_in_the_secret_and_nowhere_else(account, shell, deployed):
    secret = account.client("secretsmanager").get_secret_value(SecretId="cal-onboarding-coralogix-key")
    assert secret["SecretString"] == KEY
    template = account.client("cloudformation").get_template(StackName="cal-onboarding")
    shells = shell.must("set; history")
    assert KEY not in str([template, account.task_definition(), account.function(), account.calls(), shells])


def test_an_empty_key_is_refused(account, shell, deployed):
    outcome = shell.run(SECRET.replace("cal-onboarding-coralogix-key", "another"), stdin="\n")
    assert (outcome.status != 0, account.calls("aws secretsmanager create-secret --name another")) == (True, [])
    assert "KEY: is empty" in outcome.stderr


@pytest.fixture(scope="module")
def task(account, deployed):
    """The network interface and the public address of the running task."""
    return account.start_task()


def test_requests_go_to_the_tasks_public_address(account, shell, task):
    _, address = task
    shell.must(SMOKE)
    shell.must(TRAFFIC)
    request = """-H Content-Type: application/json -d {"customer_id":"TEST-001"}"""
    assert account.calls("curl")[-1] == f"curl -fsS -X POST http://{address}:8000/telemetry/smoke {request}"
    assert account.calls("traffic") == [f"traffic {address} 600 1"]


def test_the_log_tails_print_what_the_programs_log(account, shell, deployed):
    logs = account.client("logs")
    groups = re.findall(r"aws logs tail (\S+)", LOGS)
    assert groups == ["/ecs/cal-onboarding-api", "/aws/lambda/cal-onboarding-lambda", "/ecs/cal-otel-collector"]
    for group in groups:
        logs.create_log_stream(logGroupName=group, logStreamName="1")
        event = {"timestamp": int(time.time() * 1000), "message": f"PRODUCER trace_id=1 in {group}"}
        logs.put_log_events(logGroupName=group, logStreamName="1", logEvents=[event])
    printed = shell.must(LOGS)
    assert [group for group in groups if f"PRODUCER trace_id=1 in {group}" not in printed] == []


def test_the_metric_stream_fits_the_service_model(shell, deployed):
    arns = "export FIREHOSE_ARN=arn:aws:firehose:::x METRIC_STREAM_ROLE_ARN=arn:aws:iam::123456789012:role/x\n"
    assert json.loads(shell.must(arns + METRIC_STREAM)) == {"Arn": "Arn"}
    assert shell.run(arns + METRIC_STREAM.replace("Namespace=", "Nonsense=")).status != 0


def test_a_dead_letter_is_shown_with_its_trace_context_and_the_redrive_fits_the_service_model(account, shell, deployed):
    queue_url = account.client("sqs").get_queue_url(QueueName="cal-onboarding-dlq")["QueueUrl"]
    context = {"traceparent": {"DataType": "String", "StringValue": "00-1-2-01"}}
    account.client("sqs").send_message(QueueUrl=queue_url, MessageBody="dead", MessageAttributes=context)
    for _ in range(2):  # looking hides nothing
        (message,) = json.loads(shell.must(DEAD_LETTERS))["Messages"]
        assert (message["Body"], message["MessageAttributes"]["traceparent"]["StringValue"]) == ("dead", "00-1-2-01")
    account.client("sqs").purge_queue(QueueUrl=queue_url)
    assert json.loads(shell.must(REDRIVE)) == {"TaskHandle": "TaskHandle"}
    assert shell.run(REDRIVE.replace("--source-arn", "--nonsense")).status != 0


def test_a_message_in_the_deployed_queue_is_processed_by_the_function(account, deployed):
    function, sqs = account.client("lambda"), account.client("sqs")
    (mapping,) = function.list_event_source_mappings(FunctionName="cal-onboarding-lambda")["EventSourceMappings"]
    assert mapping["State"] == "Enabled"
    variables = {"AWS_REGION": "us-east-1", "ACCOUNT_ID": "123456789012"}
    expected = shipped.render(shipped.read_json("event-source-mapping.json"), variables)
    assert mapping["FunctionArn"].endswith(f":{expected.pop('FunctionName')}")
    assert contains(mapping, expected)
    function.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)  # moto's own is nothing like Lambda's
    api = next(c for c in account.task_definition()["containerDefinitions"] if c["name"] == "onboarding-api")
    queue_url = next(entry["value"] for entry in api["environment"] if entry["name"] == "QUEUE_URL")
    body = json.dumps({"customer_id": "TEST-001", "request_id": "1", "source": "smoke"})
    message_id = sqs.send_message(QueueUrl=queue_url, MessageBody=body)["MessageId"]
    with emulator(account) as (child, invoke_url), EventSourceMapping(sqs, queue_url, invoke_url, mapping["BatchSize"]):
        line = f"onboarded customer_id=TEST-001 request_id=1 message_id={message_id}"
        poll_until(lambda: line in child.log_file.read_text(), "the function to process the message")
        poll_until(lambda: in_queue(account) == 0, "the message to be deleted")


@contextlib.contextmanager
def emulator(account):
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


@pytest.mark.parametrize(("arch", "function", "task"), [("amd64", "x86_64", "X86_64"), ("arm64", "arm64", "ARM64")])
def test_one_variable_sets_every_architecture(account, arch, function, task):
    files = "".join(file.read_text() for file in shipped.ROOT.glob("infrastructure/*.json"))
    names = set(re.findall(r"\$\{(\w+)\}", files)) - {"LAMBDA_ARCHITECTURE", "CPU_ARCHITECTURE"}
    with Shell(account.directory, account.environment | {"MOTO_ENDPOINT": "none"}) as shell:
        shell.must(VARIABLES.replace("ARCH=amd64", f"ARCH={arch}") + FUNCTIONS)
        shell.must("\n".join(f"export {name}=x" for name in names))
        assert json.loads(shell.must("render infrastructure/lambda.json"))["Architectures"] == [function]
        definition = json.loads(shell.must("render infrastructure/taskdef.json"))
        assert definition["runtimePlatform"]["cpuArchitecture"] == task
        shell.run("publish x otel/Dockerfile")
        assert f"--platform linux/{arch} " in account.calls("docker build")[-1]


@pytest.mark.parametrize("setting", ["unset IMAGE_TAG", "export IMAGE_TAG="])
def test_a_file_is_not_rendered_without_a_value_for_every_placeholder(account, setting):
    with Shell(account.directory, account.environment) as shell:
        outcome = shell.run(f"{FUNCTIONS}\n{setting}\nrender infrastructure/lambda-environment.json")
    assert (outcome.status != 0, outcome.stdout, outcome.stderr) == (True, "", "IMAGE_TAG is not set\n")


def test_a_wrong_architecture_and_a_failed_look_up_are_named(account, deployed):
    with Shell(account.directory, account.environment | {"MOTO_ENDPOINT": "none"}) as shell:
        assert "ARCH must be amd64 or arm64" in shell.run(VARIABLES.replace("ARCH=amd64", "ARCH=riscv64")).stderr
        shell.run(LOOKUP)
        for block, name in {FOUNDATION: "VPC_ID", API_IMAGES: "ECR_REPO", SERVICE: "ACCOUNT_ID"}.items():
            assert f"{name}: " in shell.run(block).stderr
        assert "ARCH: " in shell.run(f"ECR_REPO=x\n{API_IMAGES}").stderr


@pytest.fixture(scope="module")
def updated(account, shell, deployed):
    """The account after a new version was deployed in the README's order."""
    shell.must(VARIABLES.replace("IMAGE_TAG=1.0.0", "IMAGE_TAG=1.0.1"))
    for block in (API_IMAGES, SERVICE, FUNCTION, UPDATE, ENVIRONMENT):
        shell.must(block)
    return account


def test_an_update_brings_the_new_version_everywhere(updated):
    task, function = updated.task_definition(), updated.function()
    assert task["revision"] == 2
    assert updated.task_definition(updated.service()["taskDefinition"]) == task
    assert {container["image"].split(":")[1] for container in task["containerDefinitions"]} == {"1.0.1"}
    assert function["Code"]["ImageUri"] == f"{REGISTRY}/cal-onboarding-lambda:1.0.1"
    assert "service.version=1.0.1" in function["Environment"]["Variables"]["OTEL_RESOURCE_ATTRIBUTES"]


def test_removing_waits_for_the_functions_interfaces_and_leaves_nothing(updated, shell, deployed, task):
    ec2, ecr = updated.client("ec2"), updated.client("ecr")
    for name in IMAGES:  # moto does not know EmptyOnDelete
        ecr.batch_delete_image(repositoryName=name, imageIds=ecr.list_images(repositoryName=name)["imageIds"])
    ec2.delete_network_interface(NetworkInterfaceId=task[0])  # ECS does, with the task
    network = updated.function()["VpcConfig"]
    interface = ec2.create_network_interface(SubnetId=network["SubnetIds"][0], Groups=network["SecurityGroupIds"])

    def release():
        poll_until(lambda: updated.calls("sleep"), "the block to wait for the interface", timeout=90)
        ec2.delete_network_interface(NetworkInterfaceId=interface["NetworkInterface"]["NetworkInterfaceId"])

    lambda_service = threading.Thread(target=release)
    lambda_service.start()
    shell.must(REMOVE)
    lambda_service.join()
    order = [line for line in updated.calls() if line.startswith(("sleep", "aws cloudformation delete-stack"))]
    assert order[0].startswith("sleep")
    assert order[-1].startswith("aws cloudformation delete-stack")
    assert updated.resources() == deployed.empty
    shell.must(REMOVE)
