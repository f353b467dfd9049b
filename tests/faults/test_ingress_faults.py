"""What Coralogix does to the Collector: it can't be reached, rejects requests, accepts a part, or does not respond."""

import re
import threading

import grpc
import pytest

from drill import UNAVAILABLE, reject

slow = pytest.mark.slow


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=slow)])
def test_ingress_unavailable(drill, seconds):
    with drill.traffic(threads=1, pause=0.25):
        drill.load(5)
        with drill.ingress(UNAVAILABLE), drill.fault(seconds=seconds):
            drill.load(5)
        drill.load(5)
    row = drill.account()
    assert (row.accepted, row.lost, row.uncounted) == (row.processed, 0, 0)


@slow
def test_ingress_throttles(drill):
    with drill.traffic(threads=1, pause=0.25):
        with drill.ingress(reject(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after=1)), drill.fault(seconds=60):
            drill.load(5)
        drill.load(5)
    row = drill.account()
    assert (row.accepted, row.lost, row.uncounted) == (row.processed, 0, 0)


@slow
@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "RESOURCE_EXHAUSTED"])
def test_ingress_rejects_for_good(drill, code):
    drill.load(5)
    drill.settle()
    with drill.ingress(reject(grpc.StatusCode[code]), final=True), drill.fault():
        drill.load(5)
        drill.settle()
    drill.load(5)
    row = drill.account()
    assert (row.accepted, row.uncounted) == (row.processed, 0)
    assert row.dropped == {"rejected by ingress": row.lost}
    assert row.lost == said_to_be_dropped(drill) > 0


@slow
def test_ingress_accepts_a_part(drill):
    with drill.ingress(lambda context, spans: spans[1:], final=True), drill.fault():
        drill.load(5)
        drill.settle()
    drill.load(5)
    row = drill.account()
    assert (row.accepted, row.uncounted) == (row.processed, 0)
    assert row.dropped == {"rejected by ingress": row.lost}
    assert "Partial success response" in drill.log(drill.stack.collector)


@slow
def test_ingress_black_hole(drill):
    over = threading.Event()

    def wait(context, spans):
        over.wait()
        context.abort(grpc.StatusCode.CANCELLED, "too late")

    with drill.traffic():
        drill.load(5)
        with drill.ingress(wait), drill.fault(seconds=15):
            drill.load(5)
        over.set()
        drill.load(5)
    row = drill.account()
    assert (row.accepted, row.lost, row.uncounted) == (row.processed, 0, 0)


@slow
def test_ingress_responds_too_late(drill):
    over = threading.Event()

    def wait(context, spans):
        over.wait(7)  # the Collector waits for 5 seconds
        return spans

    drill.evidence.may_arrive_twice = True
    with drill.traffic():
        with drill.ingress(wait), drill.fault(seconds=15):
            drill.load(5)
        over.set()
        drill.load(5)
    row = drill.account()
    assert (row.accepted, row.lost, row.uncounted) == (row.processed, 0, 0)
    assert row.twice > 0


def said_to_be_dropped(drill):
    """Return how many spans the Collector's log says it has dropped."""
    lines = [line for line in drill.log(drill.stack.collector).splitlines() if "Dropping data" in line]
    return sum(
        int(re.search(r'"dropped_items": (\d+)', line)[1]) for line in lines if '"otelcol.signal": "traces"' in line
    )
