"""onboarding-lambda/telemetry.py: what it sets up, what a flush logs, and what an invocation is called."""

import importlib.util
import logging
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

    yield load
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
        return timeouts, [(record.levelname, record.getMessage()) for record in caplog.records]

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
    assert flushed(**result)[1] == [line]


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


def test_only_the_first_invocation_of_a_sandbox_is_a_cold_start(telemetry):
    invocations = [telemetry.invocation_attributes(SimpleNamespace(aws_request_id=name)) for name in ("a", "b")]
    assert invocations == [
        {"faas.invocation_id": "a", "faas.trigger": "pubsub", "faas.coldstart": True},
        {"faas.invocation_id": "b", "faas.trigger": "pubsub", "faas.coldstart": False},
    ]
