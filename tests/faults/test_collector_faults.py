"""What the Collector does to those who send to it: it is away, dies, hangs or is slow."""

import statistics
import time

import pytest

slow = pytest.mark.slow


@slow
def test_collector_down_at_start(drill):
    with drill.fault():
        drill.stop_collector()
        drill.restart(drill.stack.function)
        drill.restart(drill.stack.api)
        drill.load(10)
        drill.drain()
        drill.stack.collector.start()
    row = drill.account()
    assert row.accepted == row.processed
    assert row.dropped.keys() <= {"api exporter"}  # the function has kept its spans


def test_collector_killed_and_restarted(drill):
    with drill.traffic():
        drill.load(10)
        with drill.fault("otel-collector"):
            drill.stop_collector(kill=True)
            time.sleep(5)
            drill.stack.collector.start()
        drill.load(10)
    row = drill.account()
    assert row.accepted == row.processed
    assert row.dropped.keys() <= {"api exporter", "died with process"}


@slow
def test_collector_restarted_in_order(drill):
    with drill.traffic():
        drill.load(10)
        with drill.fault(seconds=1):
            drill.stop_collector()
            drill.stack.collector.start()
        drill.load(10)
    row = drill.account()
    assert row.accepted == row.processed
    assert row.dropped.keys() <= {"api exporter"}


@slow
def test_collector_stalled(drill):
    before = drill.load(40)
    with drill.fault(), drill.stopped(drill.collector()):
        during = drill.load(40)
        time.sleep(10)
        during += drill.load(40)
    drill.load(10)
    drill.evidence.may_arrive_twice = True  # what waited in the stalled Collector was sent again
    row = drill.account()
    assert (row.accepted, row.ambiguous) == (row.processed, 0)
    assert row.dropped.keys() <= {"api exporter"}
    print(f"p99 of the API's responses: {p99(before):.3f} s before, {p99(during):.3f} s during")
    seconds = [statistics.median(response.seconds for response in responses) for responses in (before, during)]
    assert seconds[1] < 10 * seconds[0]


def p99(responses):
    """Return the 99th percentile of the seconds the responses took."""
    return statistics.quantiles([response.seconds for response in responses], n=100)[98]
