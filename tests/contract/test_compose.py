"""compose.yaml runs what is shipped to AWS, the way the task and the function are run there."""

import re

import pytest
import yaml

import containers
import preflight
import shipped
import trace_viewer
from event_source_mapping import QUEUE

FILE = (shipped.ROOT / "compose.yaml").read_text()
# With Compose's ${NAME:-value} as it is when NAME is not set.
SERVICES = yaml.safe_load(re.sub(r"\$\{\w+:-(.*?)\}", r"\1", FILE))["services"]
SHIPPED = {container["name"]: container for container in shipped.read_json("taskdef.json")["containerDefinitions"]}
FUNCTION = shipped.read_json("lambda.json")
DIRECTORIES = {"onboarding-api": "onboarding-api", "otel-collector": "otel", "onboarding-lambda": "onboarding-lambda"}
# The placeholders' values in containers.
VARIABLES = {
    "AWS_REGION": "us-east-1",
    "IMAGE_TAG": "local",
    "CORALOGIX_DOMAIN": "coralogix.invalid",
    "CORALOGIX_PRIVATE_KEY": "local-stand-in-key",
    "QUEUE_URL": f"http://sqs:5000/123456789012/{QUEUE}",
}
CLIENT = {"AWS_ENDPOINT_URL_SQS": "http://sqs:5000", "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
# What no file that is shipped sets: the way to the stand-ins, and what Lambda itself sets.
LOCAL = {
    "onboarding-api": CLIENT,
    "otel-collector": {
        "STAND_IN_KEY": containers.STAND_IN_KEY,
        "INGRESS_ADDRESS": "ingress:4317",
        "INGRESS_CA_FILE": "/shared/ca.pem",
        "VIEWER_ADDRESS": "trace-viewer:4317",
    },
    "onboarding-lambda": {
        "AWS_REGION": VARIABLES["AWS_REGION"],
        "AWS_LAMBDA_FUNCTION_NAME": FUNCTION["FunctionName"],
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(FUNCTION["Timeout"]),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(FUNCTION["MemorySize"]),
    },
}


@pytest.mark.parametrize("container", SHIPPED)
def test_a_container_of_the_task_has_the_environment_of_the_task_definition(container):
    expected = shipped.container_environment(container, VARIABLES) | LOCAL[container]
    assert SERVICES[container]["environment"] == expected


def test_the_function_has_its_shipped_environment_timeout_and_memory():
    expected = shipped.lambda_environment(VARIABLES) | LOCAL["onboarding-lambda"]
    assert SERVICES["onboarding-lambda"]["environment"] == expected


def test_nothing_local_takes_the_place_of_a_shipped_value():
    for container in SHIPPED:
        assert not set(LOCAL[container]) & set(shipped.container_environment(container, VARIABLES))
    assert not set(LOCAL["onboarding-lambda"]) & set(shipped.lambda_environment(VARIABLES))


@pytest.mark.parametrize("container", SHIPPED)
def test_a_container_of_the_task_is_as_restricted_as_there_and_has_as_long_to_stop(container):
    service, definition = SERVICES[container], SHIPPED[container]
    assert (service["user"], service["read_only"]) == (definition["user"], definition["readonlyRootFilesystem"])
    assert service["stop_grace_period"] == f"{definition['stopTimeout']}s"
    assert service.get("mem_limit") == (f"{definition['memory']}m" if "memory" in definition else None)


def test_the_health_of_the_api_is_checked_as_in_the_task():
    local, there = SERVICES["onboarding-api"]["healthcheck"], SHIPPED["onboarding-api"]["healthCheck"]
    seconds = {"interval": "interval", "timeout": "timeout", "start_period": "startPeriod"}
    assert {name: local[name] for name in seconds} == {name: f"{there[key]}s" for name, key in seconds.items()}
    assert (local["test"], local["retries"]) == (there["command"], there["retries"])


def test_the_collector_is_healthy_before_the_api_starts_as_in_the_task():
    there = {entry["containerName"]: entry["condition"] for entry in SHIPPED["onboarding-api"]["dependsOn"]}
    local = SERVICES["onboarding-api"]["depends_on"]
    assert there == {"otel-collector": "HEALTHY"}
    assert local["otel-collector"] == {"condition": "service_healthy", "restart": True}  # it has the network
    assert "healthcheck" not in SERVICES["otel-collector"]  # its image's own


def test_what_a_stand_in_forgets_with_a_restart_is_made_again():
    # The ingress has a new CA, which the Collector reads when it starts, and the API's network ends with the Collector;
    # `docker compose up` restarts only who names the service that is made anew. SQS has no queues.
    dependents = (("otel-collector", "ingress"), ("onboarding-api", "ingress"), ("event-source-mapping", "sqs"))
    for service, stand_in in dependents:
        assert SERVICES[service]["depends_on"][stand_in] == {"condition": "service_healthy", "restart": True}


def test_api_and_collector_share_one_network_namespace_as_in_the_task():
    assert SERVICES["onboarding-api"]["network_mode"] == "service:otel-collector"


def test_the_function_finds_the_collector_under_its_name_on_aws():
    endpoint = SERVICES["onboarding-lambda"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    (alias,) = SERVICES["otel-collector"]["networks"]["default"]["aliases"]
    assert endpoint == f"http://{alias}:4317"


def test_only_the_api_and_the_viewer_are_published_and_only_on_loopback():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "otel-collector": [f"127.0.0.1:{preflight.API_PORT}:8000"],
        "trace-viewer": [f"127.0.0.1:{trace_viewer.PAGE_PORT}:8003"],
    }
    assert '"127.0.0.1:${PORT:-8000}:8000"' in FILE
    assert '"127.0.0.1:${VIEWER_PORT:-8003}:8003"' in FILE


def test_the_demo_in_a_container_publishes_only_the_api_and_the_viewer_and_only_on_loopback():
    script = (shipped.ROOT / "infrastructure/local/docker.sh").read_text()
    published = re.findall(r"--publish[ =](\S+)|\s-p[ =]?(\S+)|--network[ =](\S+)|(--publish-all|\s-P)\b", script)
    assert published == [
        ('"127.0.0.1:$port:$port"', "", "", ""),
        ('"127.0.0.1:$viewer_port:$viewer_port"', "", "", ""),
    ]


def test_the_viewer_keeps_as_much_as_that_of_make_demo():
    assert f"--db-max-size={trace_viewer.MAX_STORED}" in SERVICES["trace-viewer"]["command"]


@pytest.mark.parametrize("service", DIRECTORIES)
def test_an_image_is_built_from_the_root_by_the_dockerfile_that_is_shipped(service):
    assert SERVICES[service]["build"] == {"context": ".", "dockerfile": f"{DIRECTORIES[service]}/Dockerfile"}


@pytest.mark.parametrize("service", DIRECTORIES)
def test_an_image_starts_what_its_dockerfile_says(service):
    here = SERVICES[service]
    command = shipped.start_command(f"{DIRECTORIES[service]}/Dockerfile")
    # After the shipped configuration, merged over it; written by the ingress.
    overlay = [f"--config=/shared/{name}.yaml" for name in ("destination", "viewer", "pipelines")]
    assert here.get("command") == ([*command, *overlay] if service == "otel-collector" else None)
    assert "entrypoint" not in here


def test_the_collector_has_the_domain_and_the_key_that_the_ingress_stands_in_for():
    collector = SERVICES["otel-collector"]["environment"]
    assert collector["CORALOGIX_DOMAIN"] == containers.STAND_IN_DOMAIN
    assert collector["CORALOGIX_PRIVATE_KEY"] == collector["STAND_IN_KEY"] == containers.STAND_IN_KEY


def test_an_account_of_ones_own_reaches_the_collector_and_whoever_writes_its_overlays():
    for service, default in (("otel-collector", True), ("ingress", False)):
        for name in preflight.ACCOUNT:
            value = SERVICES[service]["environment"][name]
            assert f"{name}: ${{{name}:-{value or ''}}}\n" in FILE
            assert bool(value) == default


@pytest.mark.parametrize("own_coralogix", [False, True])
def test_the_overlays_that_the_collector_gets_keep_every_shipped_exporter(tmp_path, own_coralogix):
    containers.write_overlays(tmp_path, own_coralogix)
    destination = yaml.safe_load((tmp_path / "destination.yaml").read_text())
    assert set(destination["exporters"]) == {"otlp_grpc/stand-in" if own_coralogix else "otlp_grpc/coralogix"}
    pipelines = yaml.safe_load((tmp_path / "pipelines.yaml").read_text())["service"]["pipelines"]
    additions = ["otlp_grpc/stand-in"] if own_coralogix else []
    expected = shipped.pipelines_with(additions, ["otlp_grpc/viewer"])["service"]["pipelines"]
    assert pipelines == expected
    variables = re.findall(r"\$\{env:(\w+)\}", "".join(path.read_text() for path in tmp_path.iterdir()))
    assert set(variables) <= set(SERVICES["otel-collector"]["environment"])


def test_the_collector_is_quiet_only_while_no_coralogix_of_ones_own_could_be_out_of_reach(tmp_path):
    # It says at INFO that an export has failed and is retried; the shipped level is INFO.
    for own_coralogix, telemetry in ((False, {"logs": {"level": "WARN"}}), (True, None)):
        containers.write_overlays(tmp_path, own_coralogix)
        service = yaml.safe_load((tmp_path / "pipelines.yaml").read_text())["service"]
        assert service.get("telemetry") == telemetry


def test_nothing_of_the_checkout_is_mounted():
    # With a umask of 077 the containers' users could not read it.
    mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert mounted == {"shared"}


def test_the_event_source_mapping_reads_the_queue_the_api_fills():
    mapping = SERVICES["event-source-mapping"]["environment"]
    assert mapping.items() >= (CLIENT | {"AWS_REGION": VARIABLES["AWS_REGION"]}).items()
    assert mapping["INVOKE_URL"] == "http://onboarding-lambda:8080/2015-03-31/functions/function/invocations"


def test_the_stand_ins_are_one_image_that_is_built_once():
    of_one = [name for name, service in SERVICES.items() if service["image"] == SERVICES["sqs"]["image"]]
    assert of_one == ["sqs", "event-source-mapping", "ingress", "ready"]
    assert [name for name in of_one if "build" in SERVICES[name]] == ["sqs"]


def test_the_image_of_the_stand_ins_has_the_files_they_read():
    local = shipped.ROOT / "infrastructure/local"
    read = re.findall(r"read_json\(\"(.+?)\"\)", (local / "containers.py").read_text())
    assert read == ["event-source-mapping.json"]
    for path in ("infrastructure/foundation.yaml", *(f"infrastructure/{name}" for name in read)):  # the former: queues
        assert path in (local / "Dockerfile").read_text()
