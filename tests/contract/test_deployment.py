"""What AWS would refuse or do wrong and no emulator does: limits, names, permissions, and the README's shell blocks."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import gunicorn.config
import pytest
import yaml

import readmes
import shipped

DEPLOYMENT = [block for block in readmes.blocks("bash", readmes.AWS) if block.startswith("(\n") or "aws " in block]
ACTING = [block for block in DEPLOYMENT if block.startswith("(\n")]
SETTING = [block for block in DEPLOYMENT if re.search(r"^export ", block, re.MULTILINE)]
FUNCTIONS = next(block for block in DEPLOYMENT if block.startswith("render()"))

TEMPLATE = yaml.safe_load((shipped.ROOT / "infrastructure/foundation.yaml").read_text())["Resources"]
TASK = shipped.read_json("taskdef.json")
API, COLLECTOR = TASK["containerDefinitions"]
LAMBDA = shipped.read_json("lambda.json")
IMAGES = ["onboarding-api/Dockerfile", "onboarding-lambda/Dockerfile", "otel/Dockerfile"]

# CPU units: MiB, https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html
FARGATE = {
    256: [512, 1024, 2048],
    512: range(1024, 4096 + 1, 1024),
    1024: range(2048, 8192 + 1, 1024),
    2048: range(4096, 16384 + 1, 1024),
    4096: range(8192, 30720 + 1, 1024),
}
# https://docs.aws.amazon.com/service-authorization/latest/reference/: these know no resource.
KNOW_NO_RESOURCE = {"ecr:GetAuthorizationToken", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets"}
# https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html: ids that do not exist yet, and so all of them
LAMBDA_INTERFACES = {
    *("ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses"),
    *("ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface"),
}


def properties(kind):
    """Return the properties of every resource of a type, by its logical name."""
    return {name: r["Properties"] for name, r in TEMPLATE.items() if r["Type"] == f"AWS::{kind}"}


def names(kind, key):
    """Return the names of every resource of a type."""
    return {p[key] for p in properties(kind).values()}


def used(text):
    """Return the upper-case shell variables that a text expands."""
    return set(re.findall(r"\$\{?([A-Z][A-Z_]+)\b", text))


def checked(block):
    """Return the variables whose absence a block reports by name."""
    return set(re.findall(r'"\$\{([A-Z_]+):\?\}"', block))


def command(block):
    """Return what a block does last, as its name."""
    return re.findall(r"(?:aws \S+|\./)[ \w.-]+\b|\w+\(\)", block)[-1]


def test_the_task_has_a_size_that_fargate_has():
    assert int(TASK["memory"]) in FARGATE[int(TASK["cpu"])]
    assert COLLECTOR["memory"] < int(TASK["memory"])
    size = f"{int(TASK['cpu']) / 1024:g} vCPU and {int(TASK['memory']) / 1024:g} GB"
    assert size in " ".join(readmes.TEXTS[readmes.AWS].split())


def test_a_batch_of_the_slowest_records_fits_into_the_function_so_that_none_is_refused(loaded_function):
    batch_size = shipped.read_json("event-source-mapping.json")["BatchSize"]
    app = loaded_function.module
    needed = batch_size * app.SLOWEST_RECORD_MILLIS + app.RESERVED_MILLIS
    assert 0 < needed <= LAMBDA["Timeout"] * 1000


def test_a_flush_fits_into_the_function_and_six_of_its_runs_into_the_visibility_timeout(loaded_function):
    flush = loaded_function.telemetry.FLUSH_MILLIS + loaded_function.telemetry.MARGIN_MILLIS
    reserved = loaded_function.module.RESERVED_MILLIS  # or no record would ever be begun
    assert flush < reserved < LAMBDA["Timeout"] * 1000 / 2
    assert 6 * LAMBDA["Timeout"] <= TEMPLATE["Queue"]["Properties"]["VisibilityTimeout"]


def test_the_collector_outlives_the_api_and_the_api_its_requests():
    assert API["dependsOn"] == [{"containerName": "otel-collector", "condition": "HEALTHY"}]
    settings = runpy.run_path(str(shipped.ROOT / "onboarding-api/gunicorn.conf.py"))
    graceful = settings.get("graceful_timeout", gunicorn.config.Config().graceful_timeout)
    export = next(int(v["value"]) for v in API["environment"] if v["name"] == "OTEL_EXPORTER_OTLP_TIMEOUT")
    assert graceful + 2 * export < API["stopTimeout"] <= 120
    assert COLLECTOR["stopTimeout"] <= 120


def test_the_collector_is_probed_alike_by_docker_and_by_ecs():
    dockerfile = (shipped.ROOT / "otel/Dockerfile").read_text()
    (interval, timeout, start, command) = re.search(
        r"^HEALTHCHECK --interval=(\d+)s --timeout=(\d+)s --start-period=(\d+)s CMD (.*)$", dockerfile, re.MULTILINE
    ).groups()
    probe = COLLECTOR["healthCheck"]
    assert probe["command"] == ["CMD", *json.loads(command)]
    assert [probe["interval"], probe["timeout"], probe["startPeriod"]] == [int(interval), int(timeout), int(start)]


def test_what_listens_on_a_port_is_what_is_let_in():
    api = properties("EC2::SecurityGroup")["ApiSecurityGroup"]["SecurityGroupIngress"][0]
    otlp, egress = TEMPLATE["CollectorIngress"]["Properties"], TEMPLATE["LambdaSecurityGroup"]["Properties"]
    settings = runpy.run_path(str(shipped.ROOT / "onboarding-api/gunicorn.conf.py"))
    ports = [
        int(settings["bind"].split(":")[1]),
        API["portMappings"][0]["containerPort"],
        api["FromPort"],
        api["ToPort"],
    ]
    assert set(ports) == {8000}
    listen = next(v["value"] for v in COLLECTOR["environment"] if v["name"] == "OTLP_LISTEN_ADDRESS")
    (out,) = egress["SecurityGroupEgress"]
    ends = [rule[end] for rule in (otlp, out) for end in ("FromPort", "ToPort")]
    assert {int(listen.split(":")[1]), COLLECTOR["portMappings"][0]["containerPort"], *ends} == {4317}
    assert out["DestinationSecurityGroupId"] == {"Fn::GetAtt": ["ApiSecurityGroup", "GroupId"]}
    assert otlp["SourceSecurityGroupId"] == {"Fn::GetAtt": ["LambdaSecurityGroup", "GroupId"]}


def test_the_api_has_no_way_out_but_https():
    (egress,) = properties("EC2::SecurityGroup")["ApiSecurityGroup"]["SecurityGroupEgress"]
    assert (egress["FromPort"], egress["ToPort"]) == (443, 443)


def test_every_name_the_json_files_use_is_one_of_the_template():
    files = [
        shipped.ROOT / "infrastructure" / f"{n}.json" for n in ("taskdef", "service", "lambda", "event-source-mapping")
    ]
    text = "".join(file.read_text() for file in files)
    assert set(re.findall(r"\$\{ECR_REPO\}/([\w-]+):\$\{IMAGE_TAG\}", text)) == names(
        "ECR::Repository", "RepositoryName"
    )
    assert set(re.findall(r":role/([\w-]+)", text)) == names("IAM::Role", "RoleName")
    assert set(re.findall(r":sqs:[^\"]*:([\w-]+)", text)) < names("SQS::Queue", "QueueName")
    assert {shipped.read_json("service.json")["cluster"]} == names("ECS::Cluster", "ClusterName")


def test_the_readme_tails_the_log_groups_that_are_written():
    written = {c["logConfiguration"]["options"]["awslogs-group"] for c in (API, COLLECTOR)}
    written.add(f"/aws/lambda/{LAMBDA['FunctionName']}")
    assert written == names("Logs::LogGroup", "LogGroupName")
    assert written == set(re.findall(r"aws logs tail (\S+)", "".join(DEPLOYMENT)))
    assert all(group["RetentionInDays"] <= 30 for group in properties("Logs::LogGroup").values())


def statements():
    """Return (actions, resources) of every statement of every role."""
    for role in properties("IAM::Role").values():
        for statement in role["Policies"][0]["PolicyDocument"]["Statement"]:
            resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
            yield set(statement["Action"]), [r if isinstance(r, str) else r.get("Fn::Sub", "") for r in resources]


def test_no_policy_has_a_wildcard_where_aws_grants_something_smaller():
    for actions, resources in statements():
        assert [action for action in actions if "*" in action] == []
        if "*" in resources:
            assert actions <= KNOW_NO_RESOURCE
        elif any("*" in resource for resource in resources):
            assert actions == LAMBDA_INTERFACES
            assert resources == ["arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:*/*"]


def test_the_key_comes_from_the_secret_that_the_readme_creates():
    (key,) = COLLECTOR["secrets"]
    assert key == {"name": "CORALOGIX_PRIVATE_KEY", "valueFrom": "${CORALOGIX_SECRET_ARN}"}
    (readable,) = (r for actions, (r, *_) in statements() if actions == {"secretsmanager:GetSecretValue"})
    created = set(re.findall(r"--name ([\w-]+) \\?\s*--secret-string file:///dev/stdin", "".join(ACTING)))
    assert created == {readable.rsplit(":", 1)[1].removesuffix("-??????")}


def test_both_containers_are_unprivileged_and_change_nothing():
    for container, image in ((API, IMAGES[0]), (COLLECTOR, IMAGES[2])):
        assert container["readonlyRootFilesystem"] is True
        users = re.findall(r"^USER (\S+)$", (shipped.ROOT / image).read_text(), re.MULTILINE)
        assert users == [container["user"]] == ["10001:10001"]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_builds_with_the_classic_builder_from_versioned_bases(image):
    text = (shipped.ROOT / image).read_text()
    assert re.findall(r"# *syntax *=|<<|--mount|--chmod|--link", text) == []
    bases = re.findall(r"^FROM (?:--platform=\S+ )?(\S+)", text, re.MULTILINE)
    assert [base for base in bases if not re.search(r":\$\{[A-Z]+_VERSION\}(-\w+)?$", base)] == []


def test_nothing_waits_unencrypted_and_nobody_else_dead_letters():
    queue, dead_letter_queue = properties("SQS::Queue").values()
    assert queue["SqsManagedSseEnabled"] is dead_letter_queue["SqsManagedSseEnabled"] is True
    (source,) = dead_letter_queue["RedriveAllowPolicy"]["sourceQueueArns"]
    assert dead_letter_queue["RedriveAllowPolicy"]["redrivePermission"] == "byQueue"
    assert source["Fn::Sub"].endswith(f":{queue['QueueName']}")
    assert queue["RedrivePolicy"]["maxReceiveCount"] == 5


def test_the_alarm_is_about_the_dead_letter_queue():
    (alarm,) = properties("CloudWatch::Alarm").values()
    dimension = {"Name": "QueueName", "Value": {"Fn::GetAtt": ["DeadLetterQueue", "QueueName"]}}
    assert (alarm["Namespace"], alarm["Dimensions"]) == ("AWS/SQS", [dimension])
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("GreaterThanThreshold", 0)


def test_every_repository_keeps_its_tags_scans_and_can_be_deleted():
    for repository in properties("ECR::Repository").values():
        assert repository["ImageTagMutability"] == "IMMUTABLE"
        assert repository["ImageScanningConfiguration"] == {"ScanOnPush": True}
        assert repository["EmptyOnDelete"] is True


def test_two_blocks_set_variables_one_has_functions_and_every_other_is_a_subshell():
    assert (len(SETTING), len(ACTING)) == (2, len(DEPLOYMENT) - 3)
    for block in ACTING:
        assert re.match(r'\(\n  set -euo pipefail\n  : "\$\{AWS_REGION:\?\}"', block)
        assert block.endswith("\n)\n")


@pytest.mark.parametrize("block", ACTING, ids=command)
def test_a_block_checks_every_variable_it_uses(block):
    functions = dict(re.findall(r"^(\w+)\(\) \{\n(.*?)^\}$", FUNCTIONS, re.MULTILINE | re.DOTALL))
    called = "".join(body for name, body in functions.items() if re.search(rf"\b{name} ", block))
    rendered = "".join((shipped.ROOT / path).read_text() for path in re.findall(r"render (\S+\.json)", block))
    own = {"KEY"} if "read -rs KEY" in block else set()
    assert used(block + called + rendered) - own | {"AWS_REGION"} == checked(block)


def test_every_variable_is_set_by_the_readme():
    exported = set(
        re.findall(r"\b([A-Z_]+)\b", " ".join(re.findall(r"\bexport (.*)$", "".join(SETTING), re.MULTILINE)))
    )
    named_in_prose = {"FIREHOSE_ARN", "METRIC_STREAM_ROLE_ARN"}
    assert set().union(*map(checked, ACTING)) <= exported | named_in_prose


@pytest.mark.parametrize("block", DEPLOYMENT, ids=command)
def test_a_block_can_be_pasted_into_bash_and_zsh(block):
    # An interactive zsh takes a # for a command, and both take ! in double quotes for history.
    assert re.findall(r"^\s*#|\s#\s|!\S", block, re.MULTILINE) == []
    # These names mean something to zsh.
    assert re.findall(r"^\s*(?:argv|commands|functions|options|path|pipestatus|status)=", block, re.MULTILINE) == []


def test_the_blocks_are_clean_shell(tmp_path):
    for number, block in enumerate(DEPLOYMENT):
        (tmp_path / f"{number:02}.sh").write_text(f"#!/usr/bin/env bash\n{block}")
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([shellcheck, *sorted(tmp_path.iterdir())], capture_output=True, text=True)
    assert done.stdout == ""
