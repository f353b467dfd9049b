"""A connection is forgotten on the way (NAT, load balancer, hung host): neither end is told, and nothing passes.

The function's connection is in test_function_faults.py: test_sandbox_frozen_and_its_connections_forgotten.
"""

import pytest

from stack import poll_until

slow = pytest.mark.slow
SECONDS = 60  # within which everything goes over a new connection


@slow
def test_connection_to_the_ingress_forgotten(drill):
    ingress = drill.stack.ingress
    with drill.proxy(drill.stack.collector, "INGRESS_ADDRESS") as proxy:
        drill.load(10)
        drill.settle()
        with drill.traffic(threads=1, pause=0.25), drill.fault():
            proxy.cut()
            before = ingress.received
            poll_until(lambda: ingress.received > before, "spans over a new connection", SECONDS)
        row = drill.account()
    assert (row.accepted, row.lost, row.uncounted) == (row.processed, 0, 0)


@slow
def test_connections_to_sqs_forgotten(drill):
    with drill.proxy(drill.stack.api, "AWS_ENDPOINT_URL_SQS") as proxy:
        drill.load(20, threads=8)
        with drill.fault():
            proxy.cut()
            responses = drill.load(20, threads=8)
        row = drill.account()
    assert {response.status for response in responses} == {202}
    assert (row.accepted, row.processed, row.lost) == (40, 40, 0)


@slow
def test_connection_of_the_api_to_the_collector_forgotten(drill):
    with drill.proxy(drill.stack.api, "OTEL_EXPORTER_OTLP_ENDPOINT") as proxy:
        drill.load(10)
        drill.settle()
        with drill.traffic(threads=1, pause=0.25), drill.fault(seconds=10):
            proxy.cut()
        row = drill.account()
    assert row.accepted == row.processed
    assert row.dropped == {"api exporter": row.lost}
    assert row.lost > 0
