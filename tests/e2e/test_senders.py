"""What one sender puts into its spans, and what the others and the counts have to do with it: nothing."""

import itertools
import os
import time

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from collector_only import CollectorOnly
from stack import poll_until

METRICS = ("calls", "duration", "compact.calls", "compact.duration")
BROKEN = "broken-text"  # stands for bytes that are no UTF-8, which no protobuf of Python would write
SAMPLED = [
    "ot=th:ffffffffffffff",
    "ot=th:8",
    "ot=th:c;rv:ffffffffffffff",
    "vendor=value,ot=p:8;th:f",
    "ot=th:fffffffffffff,vendor=value",
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The Collector and the ingress, for all of them."""
    with CollectorOnly(tmp_path_factory.mktemp("collector") / "run", faster=100) as running:
        yield running


@pytest.fixture
def service():
    """The name of a service that nobody else has."""
    return f"sender-{os.urandom(4).hex()}"


def request(service=None, count=1):
    """Return a request with so many spans of a service, to be changed before it is sent."""
    message = ExportTraceServiceRequest()
    resource = message.resource_spans.add()
    if service:
        resource.resource.attributes.add(key="service.name").value.string_value = service
    spans = resource.scope_spans.add().spans
    for _ in range(count):
        add_span(spans)
    return message


def add_span(spans):
    now = time.time_ns()
    span = spans.add(trace_id=os.urandom(16), span_id=os.urandom(8), name="operation", kind=2)
    span.start_time_unix_nano, span.end_time_unix_nano = now, now + 1_000_000
    return span


def spans_of(message):
    return message.resource_spans[0].scope_spans[0].spans


def counts(alone, service):
    """Return how many spans of a service the ingress has, and {metric: how many it has counted}."""
    points = [point for point in alone.ingress.points() if point.attributes["service.name"] == service]
    counted = dict.fromkeys(METRICS, 0)
    for point in points:
        counted[point.name] += point.value if point.name.endswith("calls") else point.value.count
    return sum(span.service == service for span in alone.ingress.spans()), counted


def wait_for_counts(alone, service, count):
    """Wait until count spans of the service have arrived and every metric says so."""
    expected = (count, dict.fromkeys(METRICS, count))
    poll_until(lambda: counts(alone, service) == expected, f"{count} spans counted")


@pytest.mark.parametrize("tracestate", SAMPLED)
def test_a_span_counts_once_whatever_its_tracestate_says_of_sampling(alone, service, tracestate):
    message = request(service, 3)
    for span in spans_of(message):
        span.trace_state = tracestate
        span.links.add(trace_id=os.urandom(16), span_id=os.urandom(8), trace_state=tracestate)
    alone.send(message.SerializeToString())
    wait_for_counts(alone, service, 3)


def test_a_span_without_a_service_counts_too(alone):
    alone.send(request(count=2).SerializeToString())
    wait_for_counts(alone, "unknown_service", 2)


PLACES = {
    "name": lambda m: setattr(spans_of(m)[0], "name", BROKEN),
    "status": lambda m: setattr(spans_of(m)[0].status, "message", BROKEN),
    "tracestate": lambda m: setattr(spans_of(m)[0], "trace_state", BROKEN),
    "attribute": lambda m: text(spans_of(m)[0].attributes.add(key="http.method").value),
    "attribute's name": lambda m: text(spans_of(m)[0].attributes.add(key=BROKEN).value, "x"),
    "list": lambda m: text(spans_of(m)[0].attributes.add(key="list").value.array_value.values.add()),
    "map": lambda m: text(spans_of(m)[0].attributes.add(key="map").value.kvlist_value.values.add(key="k").value),
    "map's name": lambda m: text(
        spans_of(m)[0].attributes.add(key="map").value.kvlist_value.values.add(key=BROKEN).value, "x"
    ),
    "event": lambda m: spans_of(m)[0].events.add(name=BROKEN),
    "event's attribute": lambda m: text(spans_of(m)[0].events.add(name="e").attributes.add(key="k").value),
    "link": lambda m: text(
        spans_of(m)[0].links.add(trace_id=b"t" * 16, span_id=b"s" * 8).attributes.add(key="k").value
    ),
    "resource": lambda m: text(m.resource_spans[0].resource.attributes.add(key="host.name").value),
    "resource's name": lambda m: text(m.resource_spans[0].resource.attributes.add(key=BROKEN).value, "x"),
    "scope": lambda m: setattr(m.resource_spans[0].scope_spans[0].scope, "name", BROKEN),
    "scope's version": lambda m: setattr(m.resource_spans[0].scope_spans[0].scope, "version", BROKEN),
    "scope's attribute": lambda m: text(m.resource_spans[0].scope_spans[0].scope.attributes.add(key="k").value),
    "schema": lambda m: setattr(m.resource_spans[0], "schema_url", BROKEN),
    "scope's schema": lambda m: setattr(m.resource_spans[0].scope_spans[0], "schema_url", BROKEN),
}


def text(value, content=BROKEN):
    value.string_value = content


@pytest.mark.parametrize("place", PLACES)
def test_bytes_that_are_no_text_stop_nobodys_spans_and_metrics(alone, service, place):
    message = request(service, 2)
    PLACES[place](message)
    serialized = message.SerializeToString()
    assert serialized.count(BROKEN.encode()) == 1
    alone.send(serialized.replace(BROKEN.encode(), b"\xff\xfe" + BROKEN.encode()[2:]))
    wait_for_counts(alone, service, 2)
    another = f"{service}-another"
    alone.send(request(another).SerializeToString())
    wait_for_counts(alone, another, 1)


def test_what_was_no_text_stays_readable(alone, service):
    message = request(service)
    spans_of(message)[0].name = BROKEN
    alone.send(message.SerializeToString().replace(BROKEN.encode(), b"\xff\xfe" + BROKEN.encode()[2:]))
    wait_for_counts(alone, service, 1)
    assert [span.name for span in alone.ingress.spans() if span.service == service] == ["\ufffd" + BROKEN[2:]]


@pytest.mark.parametrize("kind", ["array_value", "kvlist_value"])
def test_a_value_nested_too_deep_for_other_libraries_takes_no_span_along(alone, service, kind):
    message = request(service, 2)
    value = spans_of(message)[0].attributes.add(key="deep").value
    for _ in range(60):
        values = getattr(value, kind).values
        value = values.add() if kind == "array_value" else values.add(key="k").value
    value.string_value = "bottom"
    alone.send(message.SerializeToString())
    wait_for_counts(alone, service, 2)


def test_a_name_that_fills_a_request_is_cut(alone, service):
    message = request(service)
    spans_of(message)[0].name = "é" * 500_000
    spans_of(message)[0].attributes.add(key="http.method").value.string_value = "x" * 500_000
    alone.send(message.SerializeToString())
    wait_for_counts(alone, service, 1)
    (span,) = [span for span in alone.ingress.spans() if span.service == service]
    assert (len(span.name.encode()), len(span.attributes["http.method"])) == (4096, 4096)


def test_a_span_as_large_as_the_receiver_takes_arrives_and_so_do_those_beside_it(alone, service):
    message, another = request(service), request(f"{service}-another", 20)
    stack_trace = spans_of(message)[0].events.add(name="exception").attributes.add(key="exception.stacktrace").value
    stack_trace.string_value = "x" * (2 * 2**20 - 400)
    message.resource_spans.extend(request(service).resource_spans)
    assert message.ByteSize() < 2 * 2**20
    alone.send(another.SerializeToString())
    alone.send(message.SerializeToString())
    alone.send(another.SerializeToString())
    wait_for_counts(alone, service, 2)
    wait_for_counts(alone, f"{service}-another", 40)


def test_a_request_beyond_that_is_rejected_and_not_counted(alone, service):
    message = request(service)
    spans_of(message)[0].events.add(name="x" * (2 * 2**20))
    with pytest.raises(grpc.RpcError) as rejected:
        alone.send(message.SerializeToString())
    assert rejected.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    alone.send(request(service).SerializeToString())
    wait_for_counts(alone, service, 1)


def test_a_request_of_more_than_ten_thousand_spans_is_rejected_and_not_counted(alone, service):
    with pytest.raises(grpc.RpcError, match="10001 spans in a request, at most 10000 are taken") as rejected:
        alone.send(request(service, 10_001).SerializeToString())
    assert rejected.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    alone.send(request(service, 10_000).SerializeToString())
    wait_for_counts(alone, service, 10_000)


PAUSE = {"every six minutes": (360, 5), "once an hour": (3600, 3)}
FASTER = 720  # an hour is five seconds


@pytest.mark.parametrize("rhythm", PAUSE)
def test_what_happens_rarely_lacks_its_first_request_at_most(tmp_path, rhythm):
    pause, requests = PAUSE[rhythm]
    values = {name: [] for name in METRICS}

    def keep(points):
        for point in points:
            values[point.name].append(point.value if point.name.endswith("calls") else point.value.count)

    with CollectorOnly(tmp_path / "run", faster=FASTER) as alone:
        alone.ingress.keep_points = keep
        for number in range(requests):
            time.sleep(pause / FASTER if number else 0)  # the shipped time between two requests, shortened as all are
            alone.send(request("rare").SerializeToString())
        poll_until(lambda: min(map(increase, values.values())) >= requests - 1, "the requests in all metrics")
    assert max(map(increase, values.values())) <= requests


def increase(values):
    """Return what a backend that reads counters as Prometheus does sees: a value that falls began anew at 0."""
    return sum(after - before if after >= before else after for before, after in itertools.pairwise(values))
