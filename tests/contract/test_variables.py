"""Every variable a program reads is set where it ships, and every variable that is set is read."""

import ast
import re

import pytest
from opentelemetry import environment_variables as read_by_api
from opentelemetry.instrumentation import environment_variables as read_by_instrumentation
from opentelemetry.instrumentation._semconv import OTEL_SEMCONV_STABILITY_OPT_IN
from opentelemetry.sdk import environment_variables as read_by_sdk

import shipped
from lambda_variables import GIVEN_BY_LAMBDA

OPENTELEMETRY = {
    *(
        name
        for module in (read_by_api, read_by_instrumentation, read_by_sdk)
        for name in vars(module)
        if name.startswith("OTEL_")
    ),
    OTEL_SEMCONV_STABILITY_OPT_IN,
    "OTEL_PYTHON_FLASK_EXCLUDED_URLS",  # the Flask instrumentation composes this name
}
OPTIONAL = {"OTEL_EXPORTER_OTLP_HEADERS"}  # only for sending straight to Coralogix: the key would be readable
API = ["onboarding-api/app.py", "onboarding-api/gunicorn.conf.py"]
FUNCTION = ["onboarding-lambda/app.py", "onboarding-lambda/telemetry.py", "onboarding-lambda/export.py"]


def read_by(paths):
    """Return the names that os.environ is asked for, whichever way, in these files."""
    names = set()
    for node in (node for path in paths for node in ast.walk(ast.parse((shipped.ROOT / path).read_text()))):
        asked = None
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            asked = node.slice
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.environ.get", "os.getenv"):
            asked = node.args[0]
        elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) == "os.environ":
            asked = node.left
        if asked is not None:
            names.add(ast.literal_eval(asked))
    return names


def set_for(container):
    """Return {name: value} of a container's environment, and {name: ARN} of its secrets."""
    definition = next(c for c in shipped.read_json("taskdef.json")["containerDefinitions"] if c["name"] == container)
    environment = {entry["name"]: entry["value"] for entry in definition["environment"]}
    return environment, {entry["name"]: entry["valueFrom"] for entry in definition.get("secrets", [])}


def test_the_api_is_given_what_it_reads():
    assert read_by(API) <= set(set_for("onboarding-api")[0])


def test_the_api_or_its_instrumentation_reads_what_the_api_is_given():
    assert set(set_for("onboarding-api")[0]) <= read_by(API) | OPENTELEMETRY


def test_the_function_is_given_what_it_reads():
    given = set(shipped.read_json("lambda-environment.json")["Variables"])
    assert read_by(FUNCTION) <= given | set(GIVEN_BY_LAMBDA) | OPTIONAL
    assert not given & OPTIONAL


def test_the_function_reads_what_it_is_given():
    given = set(shipped.read_json("lambda-environment.json")["Variables"])
    assert given <= read_by(FUNCTION) | OPENTELEMETRY
    assert not given & set(GIVEN_BY_LAMBDA)  # Lambda refuses these names


def test_the_collector_is_given_exactly_what_its_configuration_reads():
    configuration = (shipped.ROOT / "otel/coralogix-collector.yaml").read_text()
    environment, secrets = set_for("otel-collector")
    assert set(re.findall(r"\$\{env:(\w+)", configuration)) == set(environment) | set(secrets)
    assert set(secrets) == {"CORALOGIX_PRIVATE_KEY"}


def test_the_collectors_entrypoint_asks_for_what_has_no_use_when_empty():
    entrypoint = (shipped.ROOT / "otel/entrypoint.sh").read_text()
    assert set(re.findall(r"\$\{(\w+):\?", entrypoint)) == {"CORALOGIX_DOMAIN", "CORALOGIX_PRIVATE_KEY"}


def test_no_variable_is_given_twice():
    for container in shipped.read_json("taskdef.json")["containerDefinitions"]:
        names = [entry["name"] for entry in container["environment"] + container.get("secrets", [])]
        assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("program", [API, FUNCTION], ids=["api", "function"])
def test_no_module_but_the_ones_that_wire_reads_the_environment(program):
    directory = (shipped.ROOT / program[0]).parent
    assert {str(path.relative_to(shipped.ROOT)) for path in directory.glob("*.py")} == set(program)


def test_the_propagators_of_both_programs_are_the_same():
    default = "tracecontext,baggage"
    assert set_for("onboarding-api")[0]["OTEL_PROPAGATORS"] == default
    assert shipped.read_json("lambda-environment.json")["Variables"].get("OTEL_PROPAGATORS", default) == default


def test_both_services_are_of_one_application_version_and_environment():
    def attributes(text):
        return dict(pair.split("=") for pair in text.split(","))

    api = attributes(set_for("onboarding-api")[0]["OTEL_RESOURCE_ATTRIBUTES"])
    variables = shipped.read_json("lambda-environment.json")["Variables"]
    function = {"service.namespace": variables["SERVICE_NAMESPACE"], "cx.application.name": variables["CX_APPLICATION"]}
    assert (function | attributes(variables["OTEL_RESOURCE_ATTRIBUTES"])).items() <= api.items()
    assert (api["service.name"], variables["SERVICE_NAME"]) == ("onboarding-api", "onboarding-lambda")
