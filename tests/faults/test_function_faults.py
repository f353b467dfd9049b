"""What happens to the function: its business fails, hangs or ends the process, its sandbox freezes."""

import contextlib
import json
import re
import time
import uuid

import grpc
import pytest

from drill import reject

slow = pytest.mark.slow
COLLECTOR = "OTEL_EXPORTER_OTLP_ENDPOINT"
COOL_DOWN_SECONDS = 5  # of onboarding-lambda/export.py
HOSTILE_CONTEXTS = [
    {"baggage": "user name=ann@example.com"},
    {"baggage": "ann@example.com"},
    {"baggage": "user=ann@example.com,x=" + "y" * 9_000},
    {"baggage": ",".join(f"ann{number}=example.com" for number in range(200))},
    {"tracestate": "User=ann@example.com"},
    {"tracestate": "a=" + "ann@example.com" * 600},
]


def durations(drill):
    """Return the seconds of every invocation that ended, as the emulator reports them, without cold starts."""
    reports = re.findall(r"^REPORT .*$", drill.log(drill.stack.function), re.MULTILINE)
    return [float(re.search(r"\tDuration: ([\d.]+) ms", line)[1]) / 1000 for line in reports if "Init" not in line]


def test_business_raises(drill):
    with drill.stack.mapping.disabled():
        drill.load(4)
        drill.load(1, fault="exception")
    row = drill.account()
    assert (row.processed, row.lost) == (5, 0)


def test_runtime_exits(drill):
    with drill.stack.mapping.disabled():
        drill.load(4)
        drill.load(1, fault="exit")
    with drill.fault("onboarding-lambda"):
        drill.settle()
    row = drill.account()
    assert (row.processed, row.dropped) == (5, {"died with process": row.lost})


@slow
def test_business_hangs_until_the_timeout(drill):
    with drill.stack.mapping.disabled():
        drill.load(4)
        drill.load(1, fault="hang")
    with drill.fault("onboarding-lambda"):
        drill.settle()
    row = drill.account()
    assert (row.processed, row.dropped) == (5, {"died with process": row.lost})
    assert "Sending SIGKILL" in drill.log(drill.stack.function)


@slow
def test_business_is_too_slow_for_its_batch(drill):
    with drill.stack.mapping.disabled():
        drill.load(5, fault="slow")
    row = drill.account()
    assert (row.processed, row.lost) == (5, 0)
    log = drill.log(drill.stack.function)
    assert re.search(r"failed message_id=\S+ trace_id=\S+: TimeoutError", log)
    assert "Sending SIGKILL" not in log


@slow
def test_runtime_killed_while_it_keeps_spans(drill):
    with drill.fault("onboarding-lambda"):
        drill.stop_collector()
        drill.load(10)
        drill.drain()
        drill.runtime().kill()
        drill.stack.collector.start()
    drill.load(5)
    row = drill.account()
    assert row.accepted == row.processed
    assert row.dropped["died with process"] > 0
    assert row.dropped.keys() <= {"died with process", "api exporter"}


def test_sandbox_frozen_and_its_connections_forgotten(drill):
    drill.evidence.may_arrive_twice = True
    with drill.proxy(drill.stack.function, COLLECTOR) as proxy:
        for _ in range(2):
            drill.load(10)
            drill.drain()
            with drill.stack.mapping.disabled():
                with drill.fault(), drill.stopped(drill.runtime()):
                    proxy.cut()
                    time.sleep(1)
                drill.load(5)
        row = drill.account()
    assert (row.accepted, row.lost) == (row.processed, 0)


@slow
def test_collector_black_hole_for_the_function(drill):
    drill.evidence.may_arrive_twice = True
    with drill.proxy(drill.stack.function, COLLECTOR) as proxy:
        drill.load(10)
        drill.drain()
        with drill.traffic(threads=1):
            before = len(durations(drill))
            with drill.fault(seconds=3 * COOL_DOWN_SECONDS):
                proxy.mode = "black hole"
            during = durations(drill)[before:]
            proxy.mode = "pass"
            proxy.cut()
        row = drill.account()
    assert (row.accepted, row.lost) == (row.processed, 0)
    waited = [seconds for seconds in during if seconds > 1]
    assert 0 < len(waited) <= 4  # one timeout a cool-down, not one an invocation
    assert len(during) > 3 * len(waited)


@slow
def test_collector_slow_for_the_function(drill):
    with drill.proxy(drill.stack.function, COLLECTOR) as proxy:
        proxy.delay = 0.3
        with drill.fault():
            drill.load(10)
            drill.drain()
        proxy.delay = 0
        row = drill.account()
    assert (row.accepted, row.lost) == (row.processed, 0)


@slow
@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED"])
def test_ingress_rejects_the_function(drill, code):
    with straight_to_the_ingress(drill):
        with drill.ingress(to_the_function(reject(grpc.StatusCode[code]))), drill.fault():
            drill.load(10)
            drill.drain()
        row = drill.account()
        assert f"cause={code}, " in drill.log(drill.stack.function)
    assert (row.accepted, row.lost) == (row.processed, 0)


@slow
def test_ingress_accepts_a_part_from_the_function(drill):
    with straight_to_the_ingress(drill):
        with drill.ingress(to_the_function(lambda context, spans: spans[1:])), drill.fault():
            drill.load(10)
            drill.drain()
        row = drill.account()
    assert row.accepted == row.processed
    assert row.dropped == {"rejected": row.lost}
    assert row.lost > 0


@slow
def test_ingress_takes_less_than_the_function_sends(drill):
    def takes_two(context, spans):
        if len(spans) > 2:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max (9000 vs. 4000)")
        return spans

    with straight_to_the_ingress(drill):
        with drill.stack.mapping.disabled():
            drill.load(10)
        with drill.ingress(to_the_function(takes_two)), drill.fault():
            drill.drain()
        row = drill.account()
    assert (row.accepted, row.lost) == (row.processed, 0)


@slow
@pytest.mark.parametrize("log_format", ["Text", "JSON"])
def test_hostile_context_in_the_log(drill, log_format):
    function, hexadecimal = drill.stack.function, iter(range(1, 100))
    with drill.environment(function, AWS_LAMBDA_LOG_FORMAT=log_format, AWS_LAMBDA_LOG_LEVEL="INFO"):
        with drill.stack.mapping.disabled():
            for context in HOSTILE_CONTEXTS:
                number, request_id = next(hexadecimal), str(uuid.uuid4())
                body = json.dumps({"customer_id": "TEST-001", "request_id": request_id, "name": "ann@example.com"})
                drill.send(body, request_id, traceparent=f"00-{number:032x}-{number:016x}-01", **context)
        row = drill.account()
    assert (row.accepted, row.processed, row.lost) == (len(HOSTILE_CONTEXTS), len(HOSTILE_CONTEXTS), 0)
    log = drill.log(function)
    assert "example.com" not in log
    for number in range(1, len(HOSTILE_CONTEXTS) + 1):
        lines = [line for line in log.splitlines() if f"{number:032x}" in line]
        if log_format == "JSON":
            lines = [json.loads(line[line.index("{") :])["message"] for line in lines]
        assert [re.search(r"(extracted traceparent|onboarded customer_id=)", line)[0] for line in lines] == [
            "extracted traceparent",
            "onboarded customer_id=",
        ]


@slow
def test_function_with_a_wrong_key(drill):
    key = "Bearer%20not-the-key"
    with straight_to_the_ingress(drill):
        function, header = drill.stack.function, {"OTEL_EXPORTER_OTLP_HEADERS": f"authorization={key}"}
        with drill.environment(function, **header), drill.fault("onboarding-lambda"):
            drill.load(5)
            drill.drain()
        drill.load(5)
        row = drill.account()
    log = drill.log(function)
    assert "cause=UNAUTHENTICATED, the key in OTEL_EXPORTER_OTLP_HEADERS is missing or wrong" in log
    assert "not-the-key" not in log
    assert row.accepted == row.processed
    assert row.dropped.keys() == {"died with process"}


def to_the_function(response):
    """Return a response for the ingress that is meant for the function's requests only."""

    def only(context, spans):
        return response(context, spans) if any(span.service == "onboarding-lambda" for span in spans) else spans

    return only


@contextlib.contextmanager
def straight_to_the_ingress(drill):
    """Let the function send as the README says it may without a Collector: to the ingress, with TLS and the key."""
    drill.evidence.past_collector = {"onboarding-lambda"}
    stack = drill.stack
    key = stack.collector.environment["CORALOGIX_PRIVATE_KEY"]
    variables = {
        COLLECTOR: f"https://127.0.0.1:{stack.ports.ingress}",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{key}",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(stack.run_dir / "ca.pem"),
    }
    with drill.environment(stack.function, **variables):
        yield
