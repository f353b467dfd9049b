"""The promises of onboarding-lambda/export.py, against real OTLP/gRPC servers and dead sockets on loopback."""

import contextlib
import importlib.util
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import shipped
from proxy import Proxy, unreachable_port

Code = grpc.StatusCode
KEY = "cxtp-secret-key"
MARGIN = 3.0  # seconds that a busy machine may add to a time that is asserted
LONG = 60.0  # seconds, for a flush that is to end by itself


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP/gRPC server on a loopback port; names: the names of the accepted spans; requests: everything it got.

    respond: called with the request and the grpc context; may abort, wait, or return the response; None accepts.
    """

    def __init__(self, port=0, max_bytes=-1):
        self.names, self.requests, self.peers, self.headers, self.respond = [], [], [], [], None
        # A real receiver's limit is 4 MiB; here none, unless given, so that it does not hide what was sent.
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", max_bytes)]
        self._server = grpc.server(ThreadPoolExecutor(4), options=options)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def Export(self, request, context):
        """Respond to one request."""
        self.requests.append(request)
        self.peers.append(context.peer())
        self.headers.append(dict(context.invocation_metadata()))
        response = self.respond(request, context) if self.respond else None
        self.names += names(request)
        return response or trace_service_pb2.ExportTraceServiceResponse()

    def close(self):
        """Stop at once, so that the port refuses."""
        self._server.stop(grace=0).wait()


class Clock:
    """What the module uses of time, with a wall clock that is offset seconds ahead; gRPC keeps the real one."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self):
        self.offset = 0.0

    def time(self):
        """Return the wall clock's seconds."""
        return time.time() + self.offset


class Sandbox:
    """A provider with the client and the processor, as a function's sandbox has them; clock: its wall clock."""

    def __init__(self, module, endpoint, headers):
        self.module, self.clock = module, Clock()
        module.time = self.clock
        self.client = module.OTLPClient(endpoint, headers)
        self.processor = module.RetainingSpanProcessor(self.client)
        self.provider = TracerProvider(resource=module.IdentityResource({"service.name": "test"}))
        self.provider.add_span_processor(self.processor)
        self.flush = self.processor.flush

    def end(self, *span_names, **attributes):
        """End one span per name, each in a trace of its own; return the names."""
        tracer = self.provider.get_tracer("test")
        for name in span_names:
            tracer.start_span(name, Context(), attributes=attributes).end()
        return list(span_names)

    @property
    def kept(self):
        """The names of the spans that are kept for the next flush."""
        return [span.name for span in self.processor.spans]

    def timed_flush(self, timeout):
        """Return (result, seconds) of a flush."""
        started = time.monotonic()
        return self.flush(timeout), time.monotonic() - started

    def cool_down(self):
        """Let the time after a failure pass."""
        self.clock.offset += self.module.COOL_DOWN_SECONDS + 1


def names(request):
    """Return the names of the spans of a request."""
    return [span.name for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]


def reject(code, details=""):
    """Return a way to respond that aborts with a code."""
    return lambda request, context: context.abort(code, details)


def rejecting(count, message=""):
    """Return a way to respond that is a partial success."""
    partial = trace_service_pb2.ExportTracePartialSuccess(rejected_spans=count, error_message=message)
    return lambda request, context: trace_service_pb2.ExportTraceServiceResponse(partial_success=partial)


@contextlib.contextmanager
def silent_port():
    """Yield a port that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextlib.contextmanager
def refused_port():
    """Yield a port that nothing listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def collector():
    """A Collector that accepts everything, until a test says otherwise."""
    server = Collector()
    yield server
    server.close()


@pytest.fixture
def start(monkeypatch):
    """Return start(endpoint, headers=""), which makes a Sandbox."""
    spec = importlib.util.spec_from_file_location("export", shipped.ROOT / "onboarding-lambda/export.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sandboxes = []

    def start(endpoint, headers=""):
        sandboxes.append(Sandbox(module, endpoint, headers))
        return sandboxes[-1]

    yield start
    for sandbox in sandboxes:
        sandbox.client.disconnect()
        sandbox.provider.shutdown()


@pytest.fixture
def sandbox(start, collector):
    """A Sandbox that sends to the collector."""
    return start(f"http://127.0.0.1:{collector.port}")


@pytest.fixture
def log(caplog):
    """Return a function that takes the log's messages since it was called last."""
    caplog.set_level(logging.INFO)

    def take():
        messages = [record.getMessage() for record in caplog.records if record.name == "onboarding-lambda"]
        caplog.clear()
        return messages

    return take


def test_a_flush_that_had_everything_accepted_is_complete(sandbox, collector):
    sandbox.end("one", "two")
    result = sandbox.flush(LONG)
    assert (collector.names, sandbox.kept) == (["one", "two"], [])
    assert (result, result.complete) == ((2, 0, {}, ""), True)


def test_what_a_flush_has_sent_is_not_sent_by_the_next(sandbox, collector):
    sandbox.end("one")
    assert sandbox.flush(LONG).complete
    sandbox.end("two")
    assert sandbox.flush(LONG) == (1, 0, {}, "")
    assert [names(request) for request in collector.requests] == [["one"], ["two"]]


def test_a_force_flush_of_the_provider_is_the_same_flush(sandbox, collector):
    collector.respond = reject(Code.UNAVAILABLE)
    sandbox.end("one")
    assert sandbox.provider.force_flush(10_000) is False
    collector.respond = None
    sandbox.cool_down()
    assert sandbox.provider.force_flush(10_000) is True
    assert collector.names == ["one"]


def test_a_force_flush_keeps_to_its_milliseconds(start):
    with silent_port() as port:
        sandbox = start(f"http://127.0.0.1:{port}")
        sandbox.end("one")
        started = time.monotonic()
        assert sandbox.provider.force_flush(timeout_millis=300) is False
        assert 0.25 < time.monotonic() - started < 0.3 + MARGIN


def test_a_span_of_a_trace_that_is_not_sampled_is_not_sent(sandbox, collector):
    class RecordOnly(Sampler):
        def should_sample(self, *_, **__):
            return SamplingResult(Decision.RECORD_ONLY)

        def get_description(self):
            return "records, and samples nothing"

    not_sampled = SpanContext(1, 1, is_remote=True, trace_flags=TraceFlags(0))
    parent = trace.set_span_in_context(NonRecordingSpan(not_sampled), Context())
    sandbox.provider.get_tracer("test").start_span("client said -00", parent).end()
    sandbox.provider.sampler = RecordOnly()
    sandbox.provider.get_tracer("another").start_span("recorded only", Context()).end()
    assert sandbox.flush(LONG).complete
    assert collector.requests == []


@pytest.mark.parametrize("port", [refused_port, silent_port, unreachable_port])
def test_a_flush_ends_in_its_time_and_keeps_the_spans_where_no_collector_responds(start, port):
    with port() as number:
        sandbox = start(f"http://127.0.0.1:{number}")
        sent = sandbox.end("one", "two")
        result, seconds = sandbox.timed_flush(0.4)
    assert (result.complete, result.accepted, result.remaining, result.dropped) == (False, 0, 2, {})
    assert seconds < 0.4 + MARGIN
    assert sandbox.kept == sent


@pytest.mark.parametrize(
    "respond",
    [
        pytest.param(lambda request, context: time.sleep(1), id="slow"),
        *(pytest.param(reject(code), id=code.name) for code in Code if code not in (Code.OK, Code.INVALID_ARGUMENT)),
    ],
)
def test_a_flush_ends_in_its_time_and_keeps_the_spans_whatever_the_collector_responds(sandbox, collector, respond):
    collector.respond = respond
    sent = sandbox.end("one", "two")
    result, seconds = sandbox.timed_flush(0.3)
    assert result.complete is False
    assert seconds < 0.3 + MARGIN
    assert sandbox.kept == sent


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.UNAUTHENTICATED, Code.RESOURCE_EXHAUSTED])
def test_after_an_outage_every_kept_span_arrives_once_and_in_order(sandbox, collector, code):
    sent = []
    for invocation in range(3):
        collector.respond = reject(code)
        sent += sandbox.end(*(f"{invocation}.{record}" for record in range(700)))
        assert not sandbox.flush(LONG).complete
        sandbox.cool_down()
    collector.respond, collector.names = None, []
    assert sandbox.flush(LONG).complete
    assert collector.names == sent


def test_a_collector_that_was_down_gets_the_kept_spans_when_it_is_back(start):
    with refused_port() as port:
        sandbox = start(f"http://127.0.0.1:{port}")
        sent = sandbox.end("one", "two")
        result = sandbox.flush(2.0)
    assert result[:3] == (0, 2, {})
    assert result.cause.startswith("UNAVAILABLE, ")
    collector = Collector(port)
    sandbox.cool_down()
    assert sandbox.flush(LONG) == (2, 0, {}, "")
    collector.close()
    assert collector.names == sent


def test_a_connection_that_died_unseen_costs_half_of_the_time_and_no_span(start, collector):
    with Proxy(collector.port) as proxy:
        sandbox = start(f"http://127.0.0.1:{proxy.port}")
        sandbox.end("before")
        assert sandbox.flush(LONG).complete
        proxy.cut()
        sandbox.end("after")
        result, seconds = sandbox.timed_flush(6.0)
    assert (result.complete, collector.names, len(set(collector.peers))) == (True, ["before", "after"], 2)
    assert 2.9 < seconds < 5.9


def test_a_connection_that_was_unused_for_long_is_replaced_before_it_costs_time(start, collector):
    with Proxy(collector.port) as proxy:
        sandbox = start(f"http://127.0.0.1:{proxy.port}")
        sandbox.end("before")
        assert sandbox.flush(LONG).complete
        proxy.cut()
        sandbox.clock.offset += sandbox.module.IDLE_SECONDS + 1
        sandbox.end("after")
        result, seconds = sandbox.timed_flush(20.0)
    assert (result.complete, collector.names, len(set(collector.peers))) == (True, ["before", "after"], 2)
    assert seconds < 9


def test_a_healthy_connection_is_used_again(sandbox, collector):
    for name in ("one", "two", "three"):
        sandbox.end(name)
        assert sandbox.flush(LONG).complete
    assert len(collector.peers) == 3
    assert len(set(collector.peers)) == 1


def test_a_retryable_failure_is_retried_once_on_a_new_connection(sandbox, collector):
    def fail_once(request, context):
        if len(collector.requests) == 1:
            context.abort(Code.UNAVAILABLE, "restarting")

    collector.respond = fail_once
    sandbox.end("one")
    assert sandbox.flush(LONG).complete
    assert collector.names == ["one"]
    assert len(set(collector.peers)) == 2


@pytest.mark.parametrize(
    ("code", "requests"), [(Code.UNAVAILABLE, 2), (Code.RESOURCE_EXHAUSTED, 1), (Code.UNAUTHENTICATED, 1)]
)
def test_a_flush_sends_at_most_twice_and_only_where_that_may_help(sandbox, collector, code, requests):
    collector.respond = reject(code)
    sandbox.end("one")
    assert not sandbox.flush(LONG).complete
    assert len(collector.requests) == requests


def test_an_outage_costs_one_timeout_and_not_one_per_invocation(start):
    with silent_port() as port:
        sandbox = start(f"http://127.0.0.1:{port}")
        sandbox.end("one")
        first, first_seconds = sandbox.timed_flush(3.0)
        sandbox.end("two")
        second, second_seconds = sandbox.timed_flush(3.0)
        assert first_seconds > 2.9
        assert second_seconds < 1.5
        assert (second.complete, second.cause) == (False, first.cause)
        assert sandbox.kept == ["one", "two"]
        sandbox.cool_down()
        assert sandbox.timed_flush(0.3)[1] > 0.25  # tries again


def test_a_wall_clock_that_is_set_back_does_not_prolong_the_cool_down(sandbox, collector):
    collector.respond = reject(Code.UNAVAILABLE)
    sandbox.end("one")
    assert not sandbox.flush(LONG).complete
    collector.respond, collector.names = None, []
    sandbox.clock.offset -= 3600
    assert sandbox.flush(LONG).complete
    assert collector.names == ["one"]


@pytest.mark.parametrize("timeout", [LONG, 0.0, -5.0])
def test_a_flush_with_nothing_to_send_is_complete_and_instant_even_in_the_cool_down(sandbox, collector, timeout):
    collector.respond = reject(Code.UNAVAILABLE)
    sandbox.end("one")
    sandbox.flush(LONG)
    sandbox.processor.spans.clear()
    before = len(collector.requests)
    result, seconds = sandbox.timed_flush(timeout)
    assert seconds < 1
    assert (result, result.complete) == ((0, 0, {}, ""), True)
    assert len(collector.requests) == before


@pytest.mark.parametrize("timeout", [0.0, -5.0])
def test_a_flush_without_time_sends_nothing_and_is_no_failure(sandbox, collector, timeout):
    sandbox.end("one")
    assert sandbox.flush(timeout) == (0, 1, {}, "the time was up")
    assert collector.requests == []
    assert sandbox.flush(LONG).complete


def test_beyond_the_bound_the_oldest_spans_are_dropped_and_counted(sandbox, collector):
    max_spans = sandbox.module.MAX_SPANS
    assert max_spans >= 16_384
    collector.respond = reject(Code.UNAVAILABLE)
    sent = sandbox.end(*map(str, range(max_spans + 10)))
    assert sandbox.flush(LONG)[:3] == (0, max_spans, {"overflow": 10})
    collector.respond, collector.names = None, []
    sandbox.cool_down()
    assert sandbox.flush(LONG) == (max_spans, 0, {}, "")
    assert collector.names == sent[10:]


def test_no_request_is_larger_than_2_mib(sandbox, collector):
    attributes = {f"attribute.{number}": "x" * 4096 for number in range(10)}
    sent = sandbox.end(*map(str, range(256)), **attributes)
    assert sandbox.flush(LONG).complete
    assert collector.names == sent
    assert max(request.ByteSize() for request in collector.requests) < 2 * 1024 * 1024
    assert len(collector.requests) < 10


# (code, message) of a receiver whose limit is smaller than a request, as its implementation of gRPC spells it.
TOO_LARGE = {
    "Go": (Code.RESOURCE_EXHAUSTED, "grpc: received message larger than max (1258291 vs. 1048576)"),
    "Go, compressed": (
        Code.RESOURCE_EXHAUSTED,
        "grpc: received message after decompression larger than max (1258291 vs. 1048576)",
    ),
    "C++": (Code.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (1258291 vs. 1048576)"),
    "older C++, Node": (Code.RESOURCE_EXHAUSTED, "Received message larger than max (1258291 vs 1048576)"),
    "Java": (Code.RESOURCE_EXHAUSTED, "gRPC message exceeds maximum size 1048576: 1258291"),
    "Java, compressed": (Code.RESOURCE_EXHAUSTED, "Decompressed gRPC message exceeds maximum size 1048576"),
    ".NET": (Code.RESOURCE_EXHAUSTED, "Received message exceeds the maximum configured message size."),
    "Rust": (
        Code.OUT_OF_RANGE,
        "Error, decoded message length too large: found 1258291 bytes, the limit is: 1048576 bytes",
    ),
    "HTTP proxy": (Code.UNKNOWN, "Received http2 header with status: 413"),
}
# What says with the same codes that the receiver is busy: the spans must be kept.
BUSY = {
    "quota": (Code.RESOURCE_EXHAUSTED, "rate limit exceeded: the maximum is 1000 spans per second"),
    "daily quota": (Code.RESOURCE_EXHAUSTED, "quota of the account is used up"),
    "no message": (Code.RESOURCE_EXHAUSTED, ""),
    "full queue": (Code.RESOURCE_EXHAUSTED, "sending queue is full"),
    "out of range": (Code.OUT_OF_RANGE, "the clock of the server is wrong"),
    "proxy": (Code.UNKNOWN, "Received http2 header with status: 500"),
    "another code": (Code.UNAVAILABLE, "grpc: received message larger than max (2 vs. 1)"),
    "large response": (Code.RESOURCE_EXHAUSTED, "Stream removed (CLIENT: Received message larger than max (2 vs. 1))"),
}


def poison(sandbox, kind):
    """End one span that can never be accepted."""
    sandbox.end({"oversized": "x" * 5_000_000, "unencodable": "\ud800"}.get(kind, "poison"))


def reject_poison(kind):
    """Return a way to respond as a receiver does to a request with such a span in it."""
    code, details = TOO_LARGE.get(kind, (Code.INVALID_ARGUMENT, "poison"))
    return lambda request, context: context.abort(code, details) if "poison" in names(request) else None


@pytest.mark.parametrize("kind", ["oversized", "unencodable", "invalid", *TOO_LARGE])
@pytest.mark.parametrize("position", [0, 300, 699])
def test_a_span_that_can_never_be_sent_is_lost_alone(sandbox, collector, kind, position):
    collector.respond = reject_poison(kind)
    sent = sandbox.end(*map(str, range(position)))
    poison(sandbox, kind)
    sent += sandbox.end(*map(str, range(position, 699)))
    result = sandbox.flush(LONG)
    assert collector.names == sent
    assert (result, result.complete) == ((699, 0, {"oversized" if kind in TOO_LARGE else kind: 1}, ""), False)
    assert len(collector.requests) < 40  # halving, not one by one
    assert sandbox.flush(LONG) == (0, 0, {}, "")


def test_where_every_span_is_invalid_all_are_dropped_with_about_one_request_each(sandbox, collector):
    collector.respond = reject(Code.INVALID_ARGUMENT)
    sandbox.end(*map(str, range(200)))
    assert sandbox.flush(LONG) == (0, 0, {"invalid": 200}, "")
    assert len(collector.requests) < 250


def test_a_receiver_that_takes_less_than_a_request_gets_everything_in_smaller_ones(sandbox, collector):
    def takes_sixty(request, context):
        if len(names(request)) > 60:
            context.abort(*TOO_LARGE["Go"])

    collector.respond = takes_sixty
    sent = sandbox.end(*map(str, range(700)))
    assert sandbox.flush(LONG) == (700, 0, {}, "")
    assert collector.names == sent
    assert len(collector.requests) < 30


def test_a_real_receiver_that_takes_less_than_a_request_gets_everything_in_smaller_ones(start):
    collector = Collector(max_bytes=10_000)
    sandbox = start(f"http://127.0.0.1:{collector.port}")
    sent = sandbox.end(*map(str, range(300)))
    assert sandbox.flush(LONG) == (300, 0, {}, "")
    collector.close()
    assert collector.names == sent


def test_a_real_proxy_that_takes_less_than_a_request_is_understood(start):
    with ThreadPoolExecutor(1) as pool, socket.create_server(("127.0.0.1", 0)) as listener:
        sandbox = start(f"http://127.0.0.1:{listener.getsockname()[1]}")
        sandbox.end("one")
        flush = pool.submit(sandbox.flush, 10.0)
        listener.settimeout(10)
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as requests:
            connection.settimeout(10)
            connection.sendall(http2_frame(4))  # SETTINGS
            assert requests.read(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            kind = None
            while kind != 1:  # HEADERS
                length, kind, stream = http2_header(requests.read(9))
                requests.read(length)
            connection.sendall(http2_frame(1, flags=5, stream=stream, payload=b"\x08\x03413"))  # :status 413, the end
            assert flush.result(15) == (0, 0, {"oversized": 1}, "")


def http2_frame(kind, flags=0, stream=0, payload=b""):
    """Return a frame of HTTP/2: https://www.rfc-editor.org/rfc/rfc9113#section-4.1."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def http2_header(header):
    """Return (length, kind, stream) of a frame with this header."""
    return int.from_bytes(header[:3], "big"), header[3], int.from_bytes(header[5:9], "big")


@pytest.mark.parametrize("busy", BUSY)
def test_a_busy_receiver_loses_no_span(sandbox, collector, busy):
    collector.respond = reject(*BUSY[busy])
    sent = sandbox.end("one", "two")
    assert sandbox.flush(LONG)[:3] == (0, 2, {})
    assert sandbox.kept == sent


@pytest.mark.parametrize(
    ("rejected", "counted"), [pytest.param(2, 2, id="two"), pytest.param(99, 3, id="more than there were")]
)
def test_spans_that_a_partial_success_rejects_are_counted_and_not_sent_again(
    sandbox, collector, log, rejected, counted
):
    collector.respond = rejecting(rejected, "two are\ntoo old")
    sandbox.end("one", "two", "three")
    assert sandbox.flush(LONG) == (3 - counted, 0, {"rejected": counted}, "")
    assert log() == ["partial success: 'two are\\ntoo old'"]
    collector.respond = None
    assert sandbox.flush(LONG).complete
    assert len(collector.requests) == 1


@pytest.mark.parametrize("rejected", [0, -5])
def test_a_partial_success_that_rejects_nothing_is_complete(sandbox, collector, log, rejected):
    collector.respond = rejecting(rejected, "a warning")
    sandbox.end("one")
    result = sandbox.flush(LONG)
    assert (result, result.complete) == ((1, 0, {}, ""), True)
    assert log() == ["partial success: 'a warning'"]


def test_time_that_is_up_in_the_middle_of_a_backlog_is_no_failure(sandbox, collector):
    collector.respond = lambda request, context: time.sleep(0.3)
    sent = sandbox.end(*map(str, range(10 * sandbox.module.MAX_REQUEST_SPANS)))
    result = sandbox.flush(1.5)
    accepted = len(collector.names)
    assert 0 < accepted < len(sent)
    assert result == (accepted, len(sent) - accepted, {}, "the time was up")
    collector.respond = None
    assert sandbox.flush(LONG) == (len(sent) - accepted, 0, {}, "")
    assert collector.names == sent


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (Code.UNAUTHENTICATED, "the key in OTEL_EXPORTER_OTLP_HEADERS is missing or wrong"),
        (Code.PERMISSION_DENIED, "the key in OTEL_EXPORTER_OTLP_HEADERS may not send spans"),
        (Code.UNIMPLEMENTED, "the server at OTEL_EXPORTER_OTLP_ENDPOINT takes no OTLP/gRPC traces"),
        (Code.INTERNAL, "'no *** for\\nyou, ***'"),
    ],
)
def test_a_rejection_has_its_cause_in_one_line_without_the_key(start, collector, log, capfd, code, cause):
    sandbox = start(f"http://127.0.0.1:{collector.port}", f"authorization=Bearer%20{KEY}")
    collector.respond = reject(code, f"no Bearer for\nyou, {KEY}")
    sandbox.end("one")
    assert sandbox.flush(LONG) == (0, 1, {}, f"{code.name}, {cause}")
    assert KEY not in "".join([*log(), *capfd.readouterr()])


def test_a_cause_is_of_bounded_length_whatever_the_server_says(sandbox, collector):
    collector.respond = reject(Code.INTERNAL, "x" * 4_000)
    sandbox.end("one")
    assert sandbox.flush(LONG).cause == f"INTERNAL, '{'x' * 300}'"


def test_a_request_that_times_out_says_so(start):
    with silent_port() as port:
        sandbox = start(f"http://127.0.0.1:{port}")
        sandbox.end("one")
        assert sandbox.flush(0.3).cause == "DEADLINE_EXCEEDED, no response in time"


@pytest.mark.parametrize(
    "headers",
    [
        f"authorization=Bearer%20{KEY}",
        f"authorization=Bearer {KEY}",
        f"Authorization=Bearer {KEY}",
        f" authorization = Bearer {KEY} ,",
        f"x-team=demo,authorization=Bearer%20{KEY}",
    ],
)
def test_the_key_is_sent_however_the_header_is_spelled(start, collector, log, headers):
    sandbox = start(f"http://127.0.0.1:{collector.port}", headers)
    sandbox.end("one")
    assert sandbox.flush(LONG).complete
    assert collector.headers[0]["authorization"] == f"Bearer {KEY}"
    assert log() == []


@pytest.mark.parametrize(
    "headers",
    [
        f'"authorization=Bearer {KEY}"',
        f'authorization="Bearer {KEY}"',
        f"authorization: Bearer {KEY}",
        f"{KEY}",
        f"={KEY}",
        f"authorization=Bearer%0A{KEY}",
        f"authorization=Bearer%C3%A9{KEY}",
        f"authorization=Bearer\udc80{KEY}",
        f"authorization-bin=Bearer {KEY}",
        f"author%20ization=Bearer {KEY}",
    ],
)
def test_a_malformed_header_is_left_out_with_a_message_that_does_not_show_it(
    start, collector, log, caplog, capfd, headers
):
    sandbox = start(f"http://127.0.0.1:{collector.port}", f"{headers},x-team=demo")
    assert KEY not in caplog.text
    assert log() == ["OTEL_EXPORTER_OTLP_HEADERS is not name=value,... without quotes: what is malformed was left out"]
    sandbox.end("one")
    assert sandbox.flush(LONG).complete
    assert collector.headers[0]["x-team"] == "demo"
    assert not [name for name in collector.headers[0] if name.startswith("auth")]
    assert KEY not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("headers", ["", ","])
def test_no_header_is_no_complaint(start, collector, log, headers):
    sandbox = start(f"http://127.0.0.1:{collector.port}", headers)
    sandbox.end("one")
    assert sandbox.flush(LONG).complete
    assert log() == []


@pytest.mark.parametrize(
    "headers", [f"te={KEY}", f"grpc-timeout={KEY}", f"content-type={KEY}", f"grpc-encoding={KEY}", f"host={KEY}"]
)
def test_a_header_that_grpc_keeps_for_itself_fails_no_invocation(start, collector, caplog, capfd, headers):
    sandbox = start(f"http://127.0.0.1:{collector.port}", headers)
    sandbox.end("one")
    result = sandbox.flush(LONG)
    assert result.accepted + result.remaining == 1
    assert KEY not in result.cause + caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "endpoint",
    [
        "not an address",
        "http://",
        "https://",
        "://",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:port",
        "http://[::1",
        "'http://127.0.0.1:1'",
        "127.0.0.1:1",
        "https://127.0.0.1:1",
        "http://collector.invalid:4317",
        "unix:",
        "dns:///",
        "\udc80",
        "http://\udc80:4317",
    ],
)
def test_an_endpoint_that_leads_nowhere_costs_spans_and_no_invocation(start, endpoint):
    sandbox = start(endpoint)
    sandbox.end("one")
    result, seconds = sandbox.timed_flush(0.3)
    assert seconds < 0.3 + MARGIN
    assert result[:3] == (0, 1, {})
    assert result.cause


@pytest.mark.parametrize("endpoint", ["", " "])
def test_an_empty_endpoint_is_the_specifications_default(start, endpoint):
    assert start(endpoint).client._endpoint == "http://localhost:4317"


@pytest.mark.parametrize(
    ("endpoint", "first_bytes"),
    [
        ("http://127.0.0.1:{}", b"PRI "),
        ("HTTP://127.0.0.1:{}", b"PRI "),
        ("http://127.0.0.1:{}/", b"PRI "),
        ("https://127.0.0.1:{}", b"\x16\x03"),
        ("https://127.0.0.1:{}/", b"\x16\x03"),
        ("127.0.0.1:{}", b"\x16\x03"),
    ],
)
def test_http_is_plaintext_and_anything_else_is_tls(start, endpoint, first_bytes):
    with ThreadPoolExecutor(1) as pool, socket.create_server(("127.0.0.1", 0)) as listener:
        sandbox = start(endpoint.format(listener.getsockname()[1]))
        sandbox.end("one")
        flush = pool.submit(sandbox.flush, 10.0)
        listener.settimeout(10)
        connection, _ = listener.accept()
        listener.close()  # so that the second try ends at once
        with connection:
            connection.settimeout(10)
            assert connection.recv(1024).startswith(first_bytes)
        assert flush.result(15).complete is False


def test_a_resource_is_encoded_as_ever_and_hashed_by_identity(sandbox, collector):
    resource, same = (sandbox.module.IdentityResource({"service.name": "test"}) for _ in range(2))
    assert resource == same == Resource({"service.name": "test"})
    assert hash(resource) != hash(same)
    sandbox.end("one", "two")
    assert sandbox.flush(LONG).complete
    (request,) = collector.requests
    (sent,) = request.resource_spans
    assert {attribute.key: attribute.value.string_value for attribute in sent.resource.attributes} == {
        "service.name": "test"
    }
