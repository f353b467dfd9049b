"""What AWS would refuse or do wrong and no emulator does: limits, names, permissions; and the text of deploy.sh."""

import json
import re
import runpy

import gunicorn.config
import pytest
import yaml

import readmes
import shipped

DEPLOY = (shipped.ROOT / "infrastructure/deploy.sh").read_text()
SOURCED = re.findall(r"^\. (\S+)$", DEPLOY, re.M)
SCRIPT = DEPLOY + "".join((shipped.ROOT / path).read_text() for path in SOURCED)
FOUNDATION = yaml.safe_load((shipped.ROOT / "infrastructure/foundation.yaml").read_text())
TEMPLATE = FOUNDATION["Resources"]
JSON_FILES = ["taskdef.json", "service.json", "lambda.json", "lambda-environment.json", "event-source-mapping.json"]
JSON_TEXT = "".join((shipped.ROOT / "infrastructure" / file).read_text() for file in JSON_FILES)
PLACEHOLDERS = set(re.findall(r"\$\{(\w+)\}", JSON_TEXT))
OWNER = "cal-onboarding/deploy.sh"
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
    images = set(re.findall(r"\$\{ECR_REPO\}/([\w-]+):\$\{IMAGE_TAG\}-\$\{ARCH\}", JSON_TEXT))
    assert images == names("ECR::Repository", "RepositoryName")
    assert set(re.findall(r":sqs:[^\"]*:([\w-]+)", JSON_TEXT)) < names("SQS::Queue", "QueueName")
    assert {shipped.read_json("service.json")["cluster"]} == names("ECS::Cluster", "ClusterName")
    assert "arn:aws:iam" not in JSON_TEXT


def test_every_placeholder_is_set_by_the_script_or_by_the_output_of_the_stack():
    (output,) = FOUNDATION["Outputs"].values()
    by_the_stack = set(re.findall(r"\b([A-Z_]+)=", output["Value"]["Fn::Sub"][0]))
    assigned = re.findall(r"\b([A-Z][A-Z_]+):?=", SCRIPT) + " ".join(re.findall(r"\bread -r (.*) <<<", SCRIPT)).split()
    by_the_script = {*assigned, "AWS_REGION", "CORALOGIX_DOMAIN", "IMAGE_TAG"}
    assert by_the_stack | by_the_script >= PLACEHOLDERS
    assert not by_the_stack & by_the_script  # neither hides the other
    used = PLACEHOLDERS | set(re.findall(r"\$\{?([A-Z_]+)\b", SCRIPT))
    assert by_the_stack <= used


def test_the_names_in_the_script_are_those_of_the_files():
    assert set(re.findall(r"--cluster(?:s)? (\S+)", SCRIPT)) == names("ECS::Cluster", "ClusterName")
    services = set(re.findall(r"--service(?:s|-name)? ([a-z][\w-]+)", SCRIPT))
    assert services == {shipped.read_json("service.json")["serviceName"]}
    assert set(re.findall(r"--function-name ([\w-]+)", SCRIPT)) == {LAMBDA["FunctionName"]}
    families = set(re.findall(r"--(?:task-definition|family|family-prefix) ([a-z][\w-]+)", SCRIPT))
    assert families == {TASK["family"]}
    assert set(re.findall(r"--secret-id ([\w-]+)", SCRIPT)) == names("SecretsManager::Secret", "Name")
    published = dict(re.findall(r"^  publish ([\w-]+) (\S+)$", SCRIPT, re.M))
    assert set(published) == names("ECR::Repository", "RepositoryName")
    assert sorted(published.values()) == IMAGES


def test_the_script_shows_the_log_groups_that_are_written():
    written = {c["logConfiguration"]["options"]["awslogs-group"] for c in (API, COLLECTOR)}
    written.add(f"/aws/lambda/{LAMBDA['FunctionName']}")
    assert written == names("Logs::LogGroup", "LogGroupName")
    (shown,) = re.findall(r"for group in (.+); do", SCRIPT)
    assert written == set(shown.split())
    assert all(group["RetentionInDays"] <= 30 for group in properties("Logs::LogGroup").values())


def statements(effect="Allow"):
    """Return (actions, resources) of every statement of every role."""
    for role in properties("IAM::Role").values():
        for statement in role["Policies"][0]["PolicyDocument"]["Statement"]:
            if statement["Effect"] == effect:
                resources = (
                    statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
                )
                yield set(statement["Action"]), [r if isinstance(r, str) else r.get("Fn::Sub", "") for r in resources]


def test_no_policy_has_a_wildcard_where_aws_grants_something_smaller():
    for actions, resources in statements():
        assert [action for action in actions if "*" in action] == []
        if "*" in resources:
            assert actions <= KNOW_NO_RESOURCE
        elif any("*" in resource for resource in resources):
            assert actions == LAMBDA_INTERFACES
            assert resources == ["arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:*/*"]


def test_the_functions_own_code_has_none_of_the_permissions_that_lambda_needs_for_its_interfaces():
    for_lambda = {action for actions, _ in statements() for action in actions if action.startswith("ec2:")}
    ((denied, resources),) = statements("Deny")
    (statement,) = [
        s
        for s in properties("IAM::Role")["LambdaRole"]["Policies"][0]["PolicyDocument"]["Statement"]
        if s["Effect"] == "Deny"
    ]
    own = {
        "Fn::Sub": "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:" + LAMBDA["FunctionName"]
    }
    assert (denied, resources) == (for_lambda, ["*"])
    assert statement["Condition"] == {"ArnEquals": {"lambda:SourceFunctionArn": own}}


def test_a_role_is_assumed_for_this_account_alone_and_its_name_is_left_to_cloudformation():
    services = []
    for role in properties("IAM::Role").values():
        (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
        services.append(statement["Principal"]["Service"])
        assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
        assert "RoleName" not in role
    assert sorted(services) == ["ecs-tasks.amazonaws.com", "ecs-tasks.amazonaws.com", "lambda.amazonaws.com"]


def test_the_key_comes_from_the_secret_of_the_stack_which_is_made_empty():
    (key,) = COLLECTOR["secrets"]
    assert key == {"name": "CORALOGIX_PRIVATE_KEY", "valueFrom": "${CORALOGIX_SECRET_ARN}"}
    (secret,) = properties("SecretsManager::Secret").values()
    assert set(secret) == {"Name", "Description"}
    (readable,) = [
        s["Resource"]
        for role in properties("IAM::Role").values()
        for s in role["Policies"][0]["PolicyDocument"]["Statement"]
        if "secretsmanager:GetSecretValue" in s["Action"]
    ]
    assert readable == {"Ref": "CoralogixKey"}


def test_a_name_that_is_gone_for_a_moment_is_asked_for_again_within_seconds():
    (namespace,) = properties("ServiceDiscovery::PrivateDnsNamespace").values()
    (name,) = properties("ServiceDiscovery::Service").values()
    assert namespace["Properties"]["DnsProperties"]["SOA"]["TTL"] == 10
    assert name["DnsConfig"]["DnsRecords"] == [{"Type": "A", "TTL": 10}]
    endpoint = shipped.read_json("lambda-environment.json")["Variables"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert endpoint == f"http://{name['Name']}.{namespace['Name']}:4317"


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


CREATING = [
    *("cloudformation deploy", "ecs register-task-definition", "ecs create-service"),
    *("lambda create-function", "cloudwatch put-metric-stream"),
]


@pytest.mark.parametrize("command", CREATING)
def test_what_is_made_says_who_made_it(command):
    (options,) = re.findall(rf"aws {command} (.*)", re.sub(r"\\\n\s*", "", SCRIPT))
    assert re.search(r'--tags "(?:[Kk]ey=)?deployer[=,](?:[Vv]alue=)?\$OWNER"', options)
    assert f"OWNER={OWNER} " in SCRIPT


def test_no_look_up_can_fail_unseen():
    # "for x in $(aws ...)", "[ "$(aws ...)" ]" and "local x=$(...)" lose the status of what is in the parentheses.
    assert re.findall(r"^.*(?:\bin|\[\[?|local \w+=\S*) ?\"?\$\((?!\().*$", SCRIPT, re.M) == []


# What macOS's bash 3.2 and BSD tools lack.
GNU = ["declare -A", "mapfile", "readarray", "local -n", ",,}", "^^}", "|&", "&>>", "sed -i", "sed -r", "grep -P"]
GNU += ["date -d", "readlink -f", "base64 -w", "sort -V", "xargs -r", "head -n -", "mktemp -t", "stat -c", "realpath"]


@pytest.mark.parametrize("word", GNU)
def test_the_script_needs_no_newer_bash_and_no_gnu_tool(word):
    assert word not in SCRIPT


def test_the_script_explains_the_variables_that_it_reads():
    header, body = SCRIPT.split("set -euo")
    explained = set(re.findall(r"^#   ([A-Z_]+)|, ([A-Z_]+)(?= \*|,|  )", header, re.M))
    explained = {name for pair in explained for name in pair if name}
    needed = {name for names_ in re.findall(r"\bneed ((?:[A-Z_]+ ?)+)", body) for name in names_.split()}
    assert needed | {"ARCH", "CLIENT_CIDR", "DESIRED_COUNT", "ALARM_TOPIC_ARN"} == explained


def test_the_readme_explains_every_variable_of_up_and_every_command():
    rows = re.findall(r"^\| (`[A-Z].*?) \|", readmes.section(readmes.AWS, "## Configure"), re.M)
    named = set(re.findall(r"`([A-Z_]+)`", "".join(rows)))
    header = SCRIPT.split("# Variables")[1].split("#   FIREHOSE_ARN")[0]
    assert named == set(re.findall(r"\b([A-Z]+_[A-Z_]+|ARCH)\b", header))
    shown = set(re.findall(r"infrastructure/deploy\.sh ([a-z-]+)", "".join(readmes.TEXTS.values())))
    assert shown == set(re.findall(r"^#   ([a-z-]+) ", SCRIPT, re.M)) | {"help"}


def test_the_costs_add_up():
    text = readmes.section(readmes.AWS, "## Costs")
    rows = [float(cost) for cost in re.findall(r"^\| .* \| ([\d.]+)\b.*\|$", text, re.M)]
    task, address = rows[:2]
    arm = float(re.search(r"\(([\d.]+) on arm64\) \|", text)[1])
    assert f"About {sum(rows):.0f} USD a month while it runs ({sum(rows) - task + arm:.0f} on arm64)" in text
    more = readmes.section(readmes.AWS, "## More than one task")
    assert f"by {task + address:.2f} ({arm + address:.2f} on arm64) for each" in more
    polls = 5 * 30 * 24 * 3600 // 20  # pollers, seconds of a month and of a long poll
    assert f"{polls:,} a month" in text
    assert rows[4] == round(polls * 0.40 / 1e6, 2)


def test_the_deployers_policy_fits_into_one_and_names_no_account():
    text = (shipped.ROOT / "infrastructure/deployer-policy.json").read_text()
    assert (
        len("".join(text.split())) <= 6144
    )  # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
    for statement in json.loads(text)["Statement"]:
        assert [action for action in statement["Action"] if "*" in action] == []
        assert statement["Effect"] == "Allow"
