"""The promises of onboarding-lambda/telemetry.py, against real OTLP/gRPC servers and dead sockets on loopback."""

import contextlib
import importlib.util
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.util._once import Once

import shipped

Code = grpc.StatusCode
KEY = "cxtp-secret-key"
GIVEN_BY_LAMBDA = {
    "AWS_REGION": "us-east-1",
    "AWS_LAMBDA_FUNCTION_NAME": "cal-onboarding-lambda",
    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
    "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]0123456789abcdef",
}
MARGIN = 3.0  # seconds that a busy machine may add to a time that is asserted


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP/gRPC server on a loopback port; names: the names of the accepted spans; requests: everything it got.

    answer: called with the request and the grpc context; may abort it, wait, or return the answer; None accepts.
    """

    def __init__(self, port=0):
        self.names, self.requests, self.peers, self.headers, self.answer = [], [], [], [], None
        # A real receiver's limit is 4 MiB; here one that is large enough not to hide what was sent.
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]
        self._server = grpc.server(ThreadPoolExecutor(4), options=options)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def Export(self, request, context):
        """Answer one request."""
        self.requests.append(request)
        self.peers.append(context.peer())
        self.headers.append(dict(context.invocation_metadata()))
        answer = self.answer(request, context) if self.answer else None
        self.names += names(request)
        return answer or trace_service_pb2.ExportTraceServiceResponse()

    def close(self):
        """Stop at once, so that the port refuses."""
        self._server.stop(grace=0).wait()


class Proxy:
    """Forwards TCP connections to a port, until freeze() leaves those that exist open and dead."""

    def __init__(self, port):
        self._to, self._frozen, self._sockets = port, set(), []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self):
        """How many connections there have been."""
        return len(self._sockets) // 2

    def freeze(self):
        """Swallow from now on what goes over the connections that exist, without closing them."""
        self._frozen.update(self._sockets)

    def close(self):
        """Close everything."""
        for end in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                ends = self._listener.accept()[0], socket.create_connection(("127.0.0.1", self._to))
                self._sockets += ends
                for source, target in (ends, reversed(ends)):
                    threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source, target):
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                if source not in self._frozen:
                    target.sendall(chunk)
            target.shutdown(socket.SHUT_WR)


class Clock:
    """What the module uses of time, with a wall clock that is offset seconds ahead."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self):
        self.offset = 0.0

    def time(self):
        """Return the wall clock's seconds."""
        return time.time() + self.offset


def names(request):
    """Return the names of the spans of a request."""
    return [span.name for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]


def refuse(code, details=""):
    """Return an answer that aborts with a code."""
    return lambda request, context: context.abort(code, details)


def rejecting(count, message=""):
    """Return an answer that is a partial success."""
    partial = trace_service_pb2.ExportTracePartialSuccess(rejected_spans=count, error_message=message)
    return lambda request, context: trace_service_pb2.ExportTraceServiceResponse(partial_success=partial)


@contextlib.contextmanager
def silent_port():
    """Yield a port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextlib.contextmanager
def black_hole():
    """Yield a port that does not even answer a SYN, because its queue of connections is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
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
def load(monkeypatch):
    """Return load(endpoint, headers=None): the module as it is when a sandbox starts with these variables.

    Its wall clock can be moved, and only its, for gRPC takes deadlines from the real one: module.time.offset += 10.
    """
    modules = []

    def load(endpoint, headers=None):
        environment = shipped.lambda_environment({"IMAGE_TAG": "test"}) | GIVEN_BY_LAMBDA
        environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        environment |= {"OTEL_EXPORTER_OTLP_HEADERS": headers} if headers is not None else {}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
        monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
        spec = importlib.util.spec_from_file_location("telemetry", shipped.ROOT / "onboarding-lambda/telemetry.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.time = Clock()
        modules.append(module)
        return module

    yield load
    for module in modules:
        module._exporter._disconnect()
        module.provider.shutdown()


@pytest.fixture
def telemetry(load, collector):
    """The module, sending to the collector."""
    return load(f"http://127.0.0.1:{collector.port}")


@pytest.fixture
def log(caplog):
    """Return a function that takes the log's messages since it was called last."""
    caplog.set_level(logging.INFO)

    def take():
        messages = [record.getMessage() for record in caplog.records if record.name == "onboarding-lambda"]
        caplog.clear()
        return messages

    return take


def end_spans(telemetry, *span_names, **attributes):
    """End one span per name, each in a trace of its own; return the names."""
    tracer = telemetry.provider.get_tracer("test")
    for name in span_names:
        tracer.start_span(name, Context(), attributes=attributes).end()
    return list(span_names)


def kept(telemetry):
    """Return the names of the spans that are kept for the next flush."""
    return [span.name for span in telemetry._processor.spans]


def timed_flush(telemetry, timeout_millis):
    """Return (answer, seconds) of a flush."""
    started = time.monotonic()
    return telemetry.provider.force_flush(timeout_millis=timeout_millis), time.monotonic() - started


def test_a_flush_that_had_everything_accepted_is_complete(telemetry, collector, log):
    end_spans(telemetry, "one", "two")
    telemetry.flush()
    assert (collector.names, kept(telemetry)) == (["one", "two"], [])
    assert log() == ["Flush complete accepted=2"]


def test_what_a_flush_has_sent_is_not_sent_by_the_next(telemetry, collector):
    end_spans(telemetry, "one")
    assert telemetry.provider.force_flush()
    end_spans(telemetry, "two")
    assert telemetry.provider.force_flush()
    assert [names(request) for request in collector.requests] == [["one"], ["two"]]


def test_a_span_of_a_trace_that_is_not_sampled_is_not_sent(telemetry, collector):
    class RecordOnly(Sampler):
        def should_sample(self, *_, **__):
            return SamplingResult(Decision.RECORD_ONLY)

        def get_description(self):
            return "records, and samples nothing"

    not_sampled = SpanContext(1, 1, is_remote=True, trace_flags=TraceFlags(0))
    parent = trace.set_span_in_context(NonRecordingSpan(not_sampled), Context())
    telemetry.provider.get_tracer("test").start_span("client said -00", parent).end()
    telemetry.provider.sampler = RecordOnly()
    telemetry.provider.get_tracer("another").start_span("recorded only", Context()).end()
    assert telemetry.provider.force_flush()
    assert collector.requests == []


@pytest.mark.parametrize("port", [refused_port, silent_port, black_hole])
def test_a_flush_ends_in_its_time_and_keeps_the_spans_where_no_collector_answers(load, log, port):
    with port() as number:
        telemetry = load(f"http://127.0.0.1:{number}")
        sent = end_spans(telemetry, "one", "two")
        answer, seconds = timed_flush(telemetry, 400)
    assert answer is False
    assert seconds < 0.4 + MARGIN
    assert kept(telemetry) == sent


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda request, context: time.sleep(1), id="slow"),
        *(pytest.param(refuse(code), id=code.name) for code in Code if code not in (Code.OK, Code.INVALID_ARGUMENT)),
    ],
)
def test_a_flush_ends_in_its_time_and_keeps_the_spans_whatever_the_collector_answers(telemetry, collector, answer):
    collector.answer = answer
    sent = end_spans(telemetry, "one", "two")
    complete, seconds = timed_flush(telemetry, 300)
    assert complete is False
    assert seconds < 0.3 + MARGIN
    assert kept(telemetry) == sent


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.UNAUTHENTICATED, Code.RESOURCE_EXHAUSTED])
def test_after_an_outage_every_kept_span_arrives_once_and_in_order(telemetry, collector, code):
    sent = []
    for invocation in range(3):
        collector.answer = refuse(code)
        sent += end_spans(telemetry, *(f"{invocation}.{record}" for record in range(700)))
        assert not telemetry.provider.force_flush()
        telemetry.time.offset += telemetry.COOL_DOWN_SECONDS + 1
    collector.answer, collector.names = None, []
    assert telemetry.provider.force_flush(timeout_millis=20_000)
    assert collector.names == sent


def test_a_collector_that_was_down_gets_the_kept_spans_when_it_is_back(load, log):
    with refused_port() as port:
        telemetry = load(f"http://127.0.0.1:{port}")
        sent = end_spans(telemetry, "one", "two")
        telemetry.flush()
    assert log()[0].startswith("Flush incomplete accepted=0 remaining=2 dropped=none cause=UNAVAILABLE, ")
    collector = Collector(port)
    telemetry.time.offset += telemetry.COOL_DOWN_SECONDS + 1
    telemetry.flush()
    collector.close()
    assert collector.names == sent
    assert log() == ["Flush complete accepted=2"]


def test_a_connection_that_died_unseen_costs_half_of_the_time_and_no_span(load, collector):
    proxy = Proxy(collector.port)
    telemetry = load(f"http://127.0.0.1:{proxy.port}")
    end_spans(telemetry, "before")
    assert telemetry.provider.force_flush()
    proxy.freeze()
    end_spans(telemetry, "after")
    answer, seconds = timed_flush(telemetry, 4000)
    proxy.close()
    assert (answer, collector.names, proxy.connections) == (True, ["before", "after"], 2)
    assert 1.9 < seconds < 3.9


def test_a_connection_that_was_unused_for_long_is_replaced_before_it_costs_time(load, collector):
    proxy = Proxy(collector.port)
    telemetry = load(f"http://127.0.0.1:{proxy.port}")
    end_spans(telemetry, "before")
    assert telemetry.provider.force_flush()
    proxy.freeze()
    telemetry.time.offset += telemetry.IDLE_SECONDS + 1
    end_spans(telemetry, "after")
    answer, seconds = timed_flush(telemetry, 10_000)
    proxy.close()
    assert (answer, collector.names, proxy.connections) == (True, ["before", "after"], 2)
    assert seconds < 4


def test_a_healthy_connection_is_used_again(telemetry, collector):
    for name in ("one", "two", "three"):
        end_spans(telemetry, name)
        assert telemetry.provider.force_flush()
    assert len(collector.peers) == 3
    assert len(set(collector.peers)) == 1


def test_a_retryable_failure_is_retried_once_on_a_new_connection(telemetry, collector):
    def fail_once(request, context):
        if len(collector.requests) == 1:
            context.abort(Code.UNAVAILABLE, "restarting")

    collector.answer = fail_once
    end_spans(telemetry, "one")
    assert telemetry.provider.force_flush()
    assert collector.names == ["one"]
    assert len(set(collector.peers)) == 2


@pytest.mark.parametrize(
    ("code", "requests"), [(Code.UNAVAILABLE, 2), (Code.RESOURCE_EXHAUSTED, 1), (Code.UNAUTHENTICATED, 1)]
)
def test_a_flush_asks_at_most_twice_and_only_where_that_may_help(telemetry, collector, code, requests):
    collector.answer = refuse(code)
    end_spans(telemetry, "one")
    assert not telemetry.provider.force_flush()
    assert len(collector.requests) == requests


def test_an_outage_costs_one_timeout_and_not_one_per_invocation(load):
    with silent_port() as port:
        telemetry = load(f"http://127.0.0.1:{port}")
        end_spans(telemetry, "one")
        _, first = timed_flush(telemetry, 3000)
        end_spans(telemetry, "two")
        answer, second = timed_flush(telemetry, 3000)
        assert first > 2.9
        assert second < 1.5
        assert answer is False
        assert kept(telemetry) == ["one", "two"]
        telemetry.time.offset += telemetry.COOL_DOWN_SECONDS + 1
        assert timed_flush(telemetry, 300)[1] > 0.25  # tries again


def test_a_wall_clock_that_is_set_back_does_not_prolong_the_cool_down(telemetry, collector):
    collector.answer = refuse(Code.UNAVAILABLE)
    end_spans(telemetry, "one")
    assert not telemetry.provider.force_flush()
    collector.answer, collector.names = None, []
    telemetry.time.offset -= 3600
    assert telemetry.provider.force_flush()
    assert collector.names == ["one"]


def test_a_flush_with_nothing_to_send_is_complete_and_instant_even_in_the_cool_down(telemetry, collector, log):
    collector.answer = refuse(Code.UNAVAILABLE)
    end_spans(telemetry, "one")
    telemetry.flush()
    telemetry._processor.spans.clear()
    log()
    asked = len(collector.requests)
    started = time.monotonic()
    telemetry.flush(SimpleNamespace(get_remaining_time_in_millis=lambda: 0))
    assert time.monotonic() - started < 1
    assert log() == ["Flush complete accepted=0"]
    assert len(collector.requests) == asked


def test_beyond_the_bound_the_oldest_spans_are_dropped_and_counted(telemetry, collector, log):
    assert telemetry.MAX_SPANS >= 16_384
    collector.answer = refuse(Code.UNAVAILABLE)
    sent = end_spans(telemetry, *map(str, range(telemetry.MAX_SPANS + 10)))
    telemetry.flush()
    assert log()[0].startswith(
        f"Flush incomplete accepted=0 remaining={telemetry.MAX_SPANS} dropped=overflow:10 cause="
    )
    collector.answer, collector.names = None, []
    telemetry.time.offset += telemetry.COOL_DOWN_SECONDS + 1
    assert telemetry.provider.force_flush(timeout_millis=60_000)
    assert collector.names == sent[10:]


def test_no_request_is_larger_than_2_mib(telemetry, collector):
    attributes = {f"attribute.{number}": "x" * 4096 for number in range(10)}
    sent = end_spans(telemetry, *map(str, range(256)), **attributes)
    assert telemetry.provider.force_flush(timeout_millis=20_000)
    assert collector.names == sent
    assert max(request.ByteSize() for request in collector.requests) < 2 * 1024 * 1024
    assert len(collector.requests) < 10


def poison(telemetry, collector, kind):
    """End one span that can never be accepted."""
    end_spans(telemetry, {"oversized": "x" * 5_000_000, "unencodable": "\ud800", "invalid": "poison"}[kind])


def refuse_poison(request, context):
    """Answer INVALID_ARGUMENT to a request with such a span in it."""
    if "poison" in names(request):
        context.abort(Code.INVALID_ARGUMENT, "poison")


@pytest.mark.parametrize("kind", ["oversized", "unencodable", "invalid"])
@pytest.mark.parametrize("position", [0, 300, 699])
def test_a_span_that_can_never_be_sent_is_lost_alone(telemetry, collector, log, kind, position):
    collector.answer = refuse_poison
    sent = end_spans(telemetry, *map(str, range(position)))
    poison(telemetry, collector, kind)
    sent += end_spans(telemetry, *map(str, range(position, 699)))
    telemetry.FLUSH_MILLIS = 20_000
    telemetry.flush()
    assert collector.names == sent
    assert log() == [f"Flush incomplete accepted=699 remaining=0 dropped={kind}:1 cause=none"]
    assert len(collector.requests) < 40  # halving, not one by one
    telemetry.flush()
    assert log() == ["Flush complete accepted=0"]


def test_where_every_span_is_invalid_all_are_dropped_with_about_one_request_each(telemetry, collector):
    collector.answer = refuse(Code.INVALID_ARGUMENT)
    end_spans(telemetry, *map(str, range(200)))
    assert not telemetry.provider.force_flush(timeout_millis=20_000)
    assert (kept(telemetry), telemetry._processor.dropped) == ([], {"invalid": 200})
    assert len(collector.requests) < 250


@pytest.mark.parametrize(
    ("rejected", "counted"), [pytest.param(2, 2, id="two"), pytest.param(99, 3, id="more than there were")]
)
def test_spans_that_a_partial_success_rejects_are_counted_and_not_sent_again(
    telemetry, collector, log, rejected, counted
):
    collector.answer = rejecting(rejected, "two are\ntoo old")
    end_spans(telemetry, "one", "two", "three")
    telemetry.flush()
    assert log() == [
        "partial success: 'two are\\ntoo old'",
        f"Flush incomplete accepted={3 - counted} remaining=0 dropped=rejected:{counted} cause=none",
    ]
    collector.answer = None
    assert telemetry.provider.force_flush()
    assert len(collector.requests) == 1


@pytest.mark.parametrize("rejected", [0, -5])
def test_a_partial_success_that_rejects_nothing_is_complete(telemetry, collector, log, rejected):
    collector.answer = rejecting(rejected, "a warning")
    end_spans(telemetry, "one")
    telemetry.flush()
    assert log() == ["partial success: 'a warning'", "Flush complete accepted=1"]


def test_time_that_is_up_in_the_middle_of_a_backlog_is_no_failure(telemetry, collector, log):
    collector.answer = lambda request, context: time.sleep(0.3)
    sent = end_spans(telemetry, *map(str, range(10 * telemetry.MAX_REQUEST_SPANS)))
    telemetry.FLUSH_MILLIS = 1500
    telemetry.flush()
    accepted = len(collector.names)
    remaining = len(sent) - accepted
    assert 0 < accepted < len(sent)
    assert log() == [f"Flush incomplete accepted={accepted} remaining={remaining} dropped=none cause=the time was up"]
    collector.answer, telemetry.FLUSH_MILLIS = None, 20_000
    telemetry.flush()
    assert log() == [f"Flush complete accepted={remaining}"]
    assert collector.names == sent


@pytest.mark.parametrize(("remaining", "seconds"), [(60_000, 0.6), (900, 0.4), (500, 0), (0, 0), (-50, 0)])
def test_a_flush_leaves_the_invocation_its_margin(load, log, remaining, seconds):
    with silent_port() as port:
        telemetry = load(f"http://127.0.0.1:{port}")
        telemetry.FLUSH_MILLIS = 600 if remaining == 60_000 else 60_000
        sent = end_spans(telemetry, "one")
        started = time.monotonic()
        telemetry.flush(SimpleNamespace(get_remaining_time_in_millis=lambda: remaining))
        assert seconds - 0.02 < time.monotonic() - started < seconds + MARGIN
    assert kept(telemetry) == sent
    assert log()[0].startswith("Flush incomplete accepted=0 remaining=1 ")


def test_the_flush_and_its_margin_fit_in_the_functions_timeout(load):
    telemetry = load("http://127.0.0.1:9")
    timeout_millis = shipped.read_json("lambda.json")["Timeout"] * 1000
    flush_millis = telemetry.FLUSH_MILLIS + telemetry.MARGIN_MILLIS
    assert 0 < flush_millis <= timeout_millis / 2


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (Code.UNAUTHENTICATED, "the key in OTEL_EXPORTER_OTLP_HEADERS is missing or wrong"),
        (Code.PERMISSION_DENIED, "the key in OTEL_EXPORTER_OTLP_HEADERS may not send spans"),
        (Code.UNIMPLEMENTED, "what answers at OTEL_EXPORTER_OTLP_ENDPOINT takes no OTLP/gRPC traces"),
        (Code.INTERNAL, "'no *** for\\nyou, ***'"),
    ],
)
def test_a_refusal_logs_its_cause_in_one_line_without_the_key(load, collector, log, capfd, code, cause):
    telemetry = load(f"http://127.0.0.1:{collector.port}", f"authorization=Bearer%20{KEY}")
    collector.answer = refuse(code, f"no Bearer for\nyou, {KEY}")
    end_spans(telemetry, "one")
    telemetry.flush()
    assert log() == [f"Flush incomplete accepted=0 remaining=1 dropped=none cause={code.name}, {cause}"]
    assert KEY not in "".join(capfd.readouterr())


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
def test_the_key_is_sent_however_the_header_is_spelled(load, collector, log, headers):
    telemetry = load(f"http://127.0.0.1:{collector.port}", headers)
    end_spans(telemetry, "one")
    telemetry.flush()
    assert collector.headers[0]["authorization"] == f"Bearer {KEY}"
    assert log() == ["Flush complete accepted=1"]


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
def test_a_malformed_header_is_left_out_with_a_sentence_that_does_not_show_it(
    load, collector, log, caplog, capfd, headers
):
    telemetry = load(f"http://127.0.0.1:{collector.port}", f"{headers},x-team=demo")
    assert KEY not in caplog.text
    assert log() == ["OTEL_EXPORTER_OTLP_HEADERS is not name=value,... without quotes: what is malformed was left out"]
    end_spans(telemetry, "one")
    telemetry.flush()
    assert collector.headers[0]["x-team"] == "demo"
    assert not [name for name in collector.headers[0] if name.startswith("auth")]
    assert KEY not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("headers", ["", ",", None])
def test_no_header_is_no_complaint(load, collector, log, headers):
    telemetry = load(f"http://127.0.0.1:{collector.port}", headers)
    end_spans(telemetry, "one")
    telemetry.flush()
    assert log() == ["Flush complete accepted=1"]


@pytest.mark.parametrize(
    "headers", [f"te={KEY}", f"grpc-timeout={KEY}", f"content-type={KEY}", f"grpc-encoding={KEY}", f"host={KEY}"]
)
def test_a_header_that_grpc_keeps_for_itself_fails_no_invocation(load, collector, log, caplog, capfd, headers):
    telemetry = load(f"http://127.0.0.1:{collector.port}", headers)
    end_spans(telemetry, "one")
    telemetry.flush()
    assert log()[-1].startswith("Flush ")
    assert KEY not in caplog.text + "".join(capfd.readouterr())


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
def test_an_endpoint_that_leads_nowhere_costs_spans_and_no_invocation(load, log, endpoint):
    telemetry = load(endpoint)
    end_spans(telemetry, "one")
    started = time.monotonic()
    telemetry.flush(SimpleNamespace(get_remaining_time_in_millis=lambda: telemetry.MARGIN_MILLIS + 300))
    assert time.monotonic() - started < 0.3 + MARGIN
    (message,) = log()
    assert message.startswith("Flush incomplete accepted=0 remaining=1 dropped=none cause=")


@pytest.mark.parametrize("endpoint", ["", " "])
def test_an_empty_endpoint_is_the_specifications_default(load, endpoint):
    assert load(endpoint)._exporter._endpoint == "http://localhost:4317"


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
def test_http_is_plaintext_and_anything_else_is_tls(load, endpoint, first_bytes):
    with ThreadPoolExecutor(1) as pool, socket.create_server(("127.0.0.1", 0)) as listener:
        telemetry = load(endpoint.format(listener.getsockname()[1]))
        end_spans(telemetry, "one")
        flush = pool.submit(telemetry.provider.force_flush, 10_000)
        listener.settimeout(10)
        connection, _ = listener.accept()
        listener.close()  # so that the second try ends at once
        with connection:
            connection.settimeout(10)
            assert connection.recv(1024).startswith(first_bytes)
        assert flush.result(15) is False


def test_a_span_keeps_a_link_for_every_record_of_the_largest_batch(telemetry, collector):
    links = [Link(SpanContext(number, number, is_remote=True)) for number in range(1, 10_001)]
    telemetry.provider.get_tracer("test").start_span("sqs.batch", Context(), links=links).end()
    assert telemetry.provider.force_flush(timeout_millis=20_000)
    (request,) = collector.requests
    assert len(request.resource_spans[0].scope_spans[0].spans[0].links) == 10_000


def test_no_attribute_is_long_enough_to_lose_its_span(telemetry, collector):
    span = telemetry.provider.get_tracer("test").start_span("one", Context(), attributes={"value": "x" * 5_000_000})
    span.record_exception(ValueError("x" * 5_000_000))
    span.end()
    assert telemetry.provider.force_flush()
    assert collector.requests[0].ByteSize() < 50_000


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


def test_only_the_first_invocation_of_a_sandbox_is_a_cold_start(telemetry):
    invocations = [telemetry.invocation_attributes(SimpleNamespace(aws_request_id=name)) for name in ("a", "b")]
    assert invocations == [
        {"faas.invocation_id": "a", "faas.trigger": "pubsub", "faas.coldstart": True},
        {"faas.invocation_id": "b", "faas.trigger": "pubsub", "faas.coldstart": False},
    ]
