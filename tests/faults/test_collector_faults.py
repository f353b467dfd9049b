"""What the Collector does to those who send to it: it is away, dies, hangs or is slow."""

import time

import pytest

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
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
    with drill.traffic():
        drill.load(10)
        with drill.fault(), drill.stopped(drill.collector()):
            time.sleep(12)
        drill.load(10)
    drill.evidence.may_arrive_twice = True  # what waited in the stalled Collector was sent again
    row = drill.account()
    assert row.accepted == row.processed
    assert row.dropped.keys() <= {"api exporter"}
