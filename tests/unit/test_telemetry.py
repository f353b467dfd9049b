"""onboarding-lambda/telemetry.py: what it sets up, what a flush logs, and what an invocation is called."""

import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.trace import Link, SpanContext
from opentelemetry.util._once import Once

import shipped
from lambda_variables import GIVEN_BY_LAMBDA


@pytest.fixture
def load(monkeypatch):
    """Return load(**variables): the module as it is when a sandbox starts with these beside the shipped ones."""
    modules = []

    def module(name):
        spec = importlib.util.spec_from_file_location(name, shipped.ROOT / f"onboarding-lambda/{name}.py")
        loaded = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, loaded)
        spec.loader.exec_module(loaded)
        return loaded

    def load(**variables):
        for name, value in (shipped.lambda_environment({"IMAGE_TAG": "test"}) | GIVEN_BY_LAMBDA | variables).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
        monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
        module("export")
        modules.append(module("telemetry"))
        return modules[-1]

    libraries = logging.getLogger("opentelemetry")
    level = libraries.level  # the module sets it, for the whole process
    yield load
    libraries.setLevel(level)
    for loaded in modules:
        loaded.provider.shutdown()


@pytest.fixture
def telemetry(load):
    """The module under the shipped variables."""
    return load()


@pytest.fixture
def flushed(telemetry, monkeypatch, caplog):
    """Return flushed(result, remaining_millis=15_000), which returns (timeouts it was given, log lines) of a flush."""
    caplog.set_level(logging.INFO)
    export = sys.modules["export"]

    def flushed(accepted=0, remaining=0, dropped=(), cause="", remaining_millis=15_000):
        timeouts = []

        def flush(timeout):
            timeouts.append(timeout)
            return export.FlushResult(accepted, remaining, Counter(dict(dropped)), cause)

        monkeypatch.setattr(telemetry.processor, "flush", flush)
        caplog.clear()
        telemetry.flush(SimpleNamespace(get_remaining_time_in_millis=lambda: remaining_millis))
        return timeouts, [(record.name, record.levelname, record.getMessage()) for record in caplog.records]

    return flushed


@pytest.mark.parametrize(
    ("result", "line"),
    [
        ({}, ("INFO", "Flush complete accepted=0")),
        ({"accepted": 2}, ("INFO", "Flush complete accepted=2")),
        (
            {"remaining": 2, "cause": "UNAVAILABLE, 'down'"},
            ("WARNING", "Flush incomplete accepted=0 remaining=2 dropped=none cause=UNAVAILABLE, 'down'"),
        ),
        (
            {"accepted": 5, "dropped": {"overflow": 10, "invalid": 1}},
            ("WARNING", "Flush incomplete accepted=5 remaining=0 dropped=overflow:10,invalid:1 cause=none"),
        ),
        (
            {"accepted": 1, "remaining": 2, "dropped": {"oversized": 3}, "cause": "the time was up"},
            ("WARNING", "Flush incomplete accepted=1 remaining=2 dropped=oversized:3 cause=the time was up"),
        ),
    ],
)
def test_a_flush_logs_in_one_line_whether_it_is_complete_and_otherwise_what_remains(flushed, result, line):
    assert flushed(**result)[1] == [("onboarding-lambda", *line)]


@pytest.mark.parametrize(
    ("remaining_millis", "timeout"),
    [(60_000, 2.0), (2500, 2.0), (2499, 1.999), (900, 0.4), (500, 0.0), (0, -0.5), (-50, -0.55)],
)
def test_a_flush_leaves_the_invocation_its_margin(flushed, remaining_millis, timeout):
    assert flushed(remaining_millis=remaining_millis)[0] == [timeout]


def test_the_flush_and_its_margin_fit_in_the_functions_timeout(telemetry):
    timeout_millis = shipped.read_json("lambda.json")["Timeout"] * 1000
    flush_millis = telemetry.FLUSH_MILLIS + telemetry.MARGIN_MILLIS
    assert 0 < flush_millis <= timeout_millis / 2


def test_the_global_provider_hands_its_spans_to_the_processor_and_they_go_where_the_variables_say(load):
    endpoint = "http://127.0.0.1:9"
    telemetry = load(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20key")
    assert trace.get_tracer_provider() is telemetry.provider
    trace.get_tracer("test").start_span("one", Context()).end()
    assert [span.name for span in telemetry.processor.spans] == ["one"]
    assert telemetry.processor._client is telemetry.client
    assert telemetry.client._endpoint == endpoint
    assert telemetry.client._headers == [("authorization", "Bearer key")]


def test_without_headers_none_are_sent_and_nothing_is_complained_of(load, caplog):
    assert load().client._headers == []
    assert caplog.records == []


def ended(telemetry):
    """Return the only span that has ended."""
    (span,) = telemetry.processor.spans
    return span


def test_a_span_keeps_a_link_for_every_record_of_the_largest_batch(telemetry):
    links = [Link(SpanContext(number, number, is_remote=True)) for number in range(1, 10_001)]
    telemetry.provider.get_tracer("test").start_span("sqs.batch", Context(), links=links).end()
    assert len(ended(telemetry).links) == 10_000


def test_no_attribute_is_long_enough_to_lose_its_span(telemetry):
    span = telemetry.provider.get_tracer("test").start_span("one", Context(), attributes={"value": "x" * 5_000_000})
    span.record_exception(ValueError("x" * 5_000_000))
    span.end()
    assert encode_spans([ended(telemetry)]).ByteSize() < 50_000


def test_the_resource_names_the_service_the_function_and_the_sandbox(telemetry):
    attributes = dict(telemetry.provider.resource.attributes)
    sdk = {
        name: attributes.pop(name) for name in list(attributes) if name.startswith(("telemetry.", "service.instance."))
    }
    assert attributes == {
        "service.name": "onboarding-lambda",
        "service.namespace": "onboarding",
        "service.version": "test",
        "deployment.environment.name": "demo",
        "cx.application.name": "onboarding",
        "cx.subsystem.name": "lambda",
        "cloud.provider": "aws",
        "cloud.platform": "aws_lambda",
        "cloud.region": "us-east-1",
        "faas.name": "cal-onboarding-lambda",
        "faas.version": "$LATEST",
        "faas.instance": "2026/01/01/[$LATEST]0123456789abcdef",
        "faas.max_memory": 512 * 1024 * 1024,
    }
    assert sdk["telemetry.sdk.language"] == "python"


def test_the_resource_is_the_one_that_is_hashed_by_identity(telemetry):
    assert isinstance(telemetry.provider.resource, sys.modules["export"].IdentityResource)


@pytest.mark.parametrize(
    ("initialization", "is_cold"),
    [
        pytest.param({"AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand"}, True, id="on demand"),
        pytest.param({"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}, True, id="restored: the message waits for it"),
        pytest.param({"AWS_LAMBDA_INITIALIZATION_TYPE": ""}, True, id="empty"),
        pytest.param({"AWS_LAMBDA_INITIALIZATION_TYPE": "of tomorrow"}, True, id="unknown"),
        pytest.param({}, True, id="unset, as in an emulator"),
        pytest.param({"AWS_LAMBDA_INITIALIZATION_TYPE": "provisioned-concurrency"}, False, id="provisioned"),
        pytest.param({"AWS_LAMBDA_INITIALIZATION_TYPE": "lambda-managed-instances"}, False, id="managed instances"),
    ],
)
def test_only_the_first_invocation_that_waits_for_its_sandbox_is_a_cold_start(
    load, monkeypatch, initialization, is_cold
):
    monkeypatch.delitem(GIVEN_BY_LAMBDA, "AWS_LAMBDA_INITIALIZATION_TYPE")
    telemetry = load(**initialization)
    invocations = [telemetry.invocation_attributes(SimpleNamespace(aws_request_id=name)) for name in ("a", "b")]
    assert invocations == [
        {"faas.invocation_id": "a", "faas.trigger": "pubsub", "faas.coldstart": is_cold},
        {"faas.invocation_id": "b", "faas.trigger": "pubsub", "faas.coldstart": False},
    ]


@pytest.mark.parametrize(
    ("chosen", "level"),
    [
        pytest.param({}, "INFO", id="unset, as with the text format"),
        ({"AWS_LAMBDA_LOG_LEVEL": ""}, "INFO"),
        ({"AWS_LAMBDA_LOG_LEVEL": "TRACE"}, "DEBUG"),
        ({"AWS_LAMBDA_LOG_LEVEL": "DEBUG"}, "DEBUG"),
        ({"AWS_LAMBDA_LOG_LEVEL": "INFO"}, "INFO"),
        ({"AWS_LAMBDA_LOG_LEVEL": "WARN"}, "WARNING"),
        ({"AWS_LAMBDA_LOG_LEVEL": "WARNING"}, "WARNING"),
        ({"AWS_LAMBDA_LOG_LEVEL": "ERROR"}, "ERROR"),
        ({"AWS_LAMBDA_LOG_LEVEL": "FATAL"}, "CRITICAL"),
        ({"AWS_LAMBDA_LOG_LEVEL": "CRITICAL"}, "CRITICAL"),
        ({"AWS_LAMBDA_LOG_LEVEL": "error"}, "ERROR"),
        ({"AWS_LAMBDA_LOG_LEVEL": " Error\n"}, "ERROR"),
        ({"AWS_LAMBDA_LOG_LEVEL": "trace"}, "DEBUG"),
        ({"AWS_LAMBDA_LOG_LEVEL": "verbose"}, "INFO"),
        ({"AWS_LAMBDA_LOG_LEVEL": "40"}, "INFO"),
    ],
)
def test_the_operators_log_level_counts_and_is_info_when_there_is_none(load, monkeypatch, chosen, level):
    monkeypatch.delitem(GIVEN_BY_LAMBDA, "AWS_LAMBDA_LOG_LEVEL")
    load(**chosen)
    assert logging.getLevelName(logging.getLogger("onboarding-lambda").level) == level


@pytest.mark.parametrize("log_format", ["", "JSON"])
@pytest.mark.parametrize(
    ("level", "lines"),
    [
        ("", ["extracted", "onboarded", "failed", "Flush"]),
        ("WARN", ["failed", "Flush"]),
        ("ERROR", ["failed"]),
    ],
)
def test_lambdas_own_runtime_logs_what_the_operator_chose(log_format, level, lines):
    program = """
import types
from awslambdaric import bootstrap
sink = types.SimpleNamespace(log=lambda line, frame_type=None: print(line, end=""))
bootstrap._setup_logging(bootstrap._AWS_LAMBDA_LOG_FORMAT, bootstrap._AWS_LAMBDA_LOG_LEVEL, sink)
import app, records
context = types.SimpleNamespace(aws_request_id="1", get_remaining_time_in_millis=lambda: 15_000)
app.handler({"Records": [records.record(), records.record(body="{", messageAttributes=None)]}, context)
"""
    path = os.pathsep.join(str(shipped.ROOT / folder) for folder in ("onboarding-lambda", "tests/support"))
    variables = shipped.lambda_environment({"IMAGE_TAG": "test"}) | GIVEN_BY_LAMBDA
    variables |= {"AWS_LAMBDA_LOG_FORMAT": log_format, "AWS_LAMBDA_LOG_LEVEL": level, "PYTHONPATH": path}
    variables |= {"OTEL_EXPORTER_OTLP_ENDPOINT": "not an address"}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    messages = [json.loads(line)["message"] if log_format else line.split("\t")[3] for line in done.stdout.splitlines()]
    assert [message.split()[0] for message in messages] == lines
    assert done.stderr == ""
