"""More than was planned for: floods of requests and spans, names by the thousand, a Collector that has to stop."""

import random
import string
import time
import uuid

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

import flood
import shipped
from drill import PATIENCE, UNAVAILABLE
from stack import poll_until

slow = pytest.mark.slow
BUDGET_SPANS = 60_000  # what may wait while Coralogix is away: the README says so
LIMIT = 300  # aggregation_cardinality_limit of otel/coralogix-collector.yaml
HUNDRED_RESOURCES = 100  # with a request of 1.8 MB each, more than the memory limiter lets in


@slow
def test_flood_of_requests(drill):
    responses = drill.load(100, threads=32)
    row = drill.account()
    assert {response.status for response in responses} <= {202, 503}
    assert row.accepted <= row.processed <= row.accepted + row.ambiguous
    assert row.lost == 0


@slow
def test_flood_of_spans_while_the_ingress_is_away(drill):
    containers = {c["name"]: c for c in shipped.read_json("taskdef.json")["containerDefinitions"]}
    with drill.traffic(threads=1, pause=0.5):
        with drill.fault():
            with drill.ingress(UNAVAILABLE):
                within = drill.flood(seconds=300, spans=BUDGET_SPANS, senders=1)
                beyond = drill.flood(seconds=5, senders=8)
                resident = drill.collector().memory_info().rss
            poll_until(lambda: not drill.collector_counts("exporter_queue_size"), "an empty queue", PATIENCE)
        drill.load(5)
    row = drill.account()
    assert within.rejected == 0
    assert beyond.rejected > 0
    assert row.accepted == row.processed
    assert row.dropped.keys() <= {"api exporter"}
    assert row.uncounted == 0
    assert resident < containers["otel-collector"]["memory"] * 2**20


@slow
def test_names_by_the_thousand(drill):
    for _ in range(100):
        method = "".join(random.choices(string.ascii_uppercase, k=12))
        assert drill.post(path=f"/{uuid.uuid4()}", method=method).status == 404
    drill.load(5)
    names = {"name": lambda: f"GET /{uuid.uuid4()}", "method": lambda: uuid.uuid4().hex}
    sent = drill.flood(seconds=60, spans=20_000, senders=1, **names)
    row = drill.account()
    assert (sent.rejected, row.lost, row.uncounted) == (0, 0, 0)
    series = [point for point in drill.evidence.points if point.name == "calls"]
    of_the_api = [point for point in series if point.resource["service.name"] == "onboarding-api"]
    assert len(series) - len(of_the_api) <= LIMIT + 10
    assert len(of_the_api) < 10


@slow
@pytest.mark.parametrize("key", ["service.version", "deployment.environment.name", "service.namespace"])
def test_resources_by_the_hundred(drill, key):
    def request(value, attributes):
        return flood.request(lambda: "operation", lambda: "GET", attributes, **{key: value})

    def taken(value, **attributes):
        poll_until(lambda: drill.accepted(request(value, attributes)), "the Collector to take a request", PATIENCE)

    for number in range(HUNDRED_RESOURCES):
        taken(str(number), large="x" * 3500)
        time.sleep(0.2)  # twenty of them last longer than two flushes of RED
    drill.settle()
    taken("another")  # once the Collector has collected its garbage, which it does every 10 seconds at most
    assert all(drill.accepted(request("another", {})) for _ in range(20))
    drill.load(5)
    row = drill.account()
    assert (row.lost, row.uncounted) == (0, 0)
    assert row.accepted == row.processed == 5


@slow
def test_spans_that_others_would_reject(drill):
    deep = ExportTraceServiceRequest.FromString(flood.request(lambda: "deep", lambda: "GET"))
    value = deep.resource_spans[0].scope_spans[0].spans[0].attributes.add(key="deep").value
    for _ in range(60):
        value = value.array_value.values.add()
    broken = flood.request(lambda: "broken-name", lambda: "broken-name").replace(b"broken-name", b"\xff\xfeoken-name")
    with drill.traffic(threads=1, pause=0.25):
        for request in (broken, deep.SerializeToString(), flood.request(lambda: "x" * 3000, lambda: "y" * 400)):
            assert drill.accepted(request)
        with pytest.raises(grpc.RpcError, match="larger than max"):
            drill.accepted(flood.request(lambda: "x" * 5000, lambda: "GET"))
        drill.load(5)
    row = drill.account()
    assert (row.accepted, row.lost, row.uncounted) == (row.processed, 0, 0)


@slow
def test_request_of_a_million_empty_spans(drill):
    request = ExportTraceServiceRequest.FromString(flood.request(lambda: "empty", lambda: "GET"))
    spans = request.resource_spans[0].scope_spans[0].spans
    del spans[:]
    spans.extend([Span()] * 1_000_000)

    def rejected():
        try:
            return not drill.accepted(request.SerializeToString())  # by the memory limiter, if it has just looked
        except grpc.RpcError as error:
            return "at most 10000 are taken" in error.details()

    with drill.traffic(threads=1, pause=0.25), drill.fault(seconds=5):
        for _ in range(3):
            assert rejected()
    row = drill.account()
    assert (row.accepted, row.uncounted) == (row.processed, 0)
    assert row.dropped.keys() <= {"api exporter"}


@slow
def test_collector_stopped_while_the_ingress_is_away(drill):
    drill.load(5)
    drill.settle()
    with drill.ingress(UNAVAILABLE), drill.fault("otel-collector"):
        drill.load(10)
        drill.drain()
        drill.stop_collector()
        drill.stack.collector.start()
    drill.load(5)
    row = drill.account()
    assert row.accepted == row.processed
    assert row.dropped == {"died with process": row.lost}
    assert row.lost > 0


@slow
def test_collector_stopped_while_a_sender_is_frozen(drill):
    drill.load(10)
    drill.drain()
    with drill.half_a_request(), drill.fault():
        began = time.monotonic()
        drill.stop_collector()
        assert time.monotonic() - began > 5, "nothing has held up the Collector"
    drill.stack.collector.start()
    drill.load(5)
    row = drill.account()
    assert row.accepted == row.processed
    assert row.dropped.keys() <= {"api exporter"}
    assert "Shutdown complete" in drill.log(drill.stack.collector)
