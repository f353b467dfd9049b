"""Two tasks, each an API with its Collector, and three sandboxes of the function; one task is replaced under load.

The tasks have loopback addresses of their own. The Collectors' common name, which Cloud Map resolves on AWS, is a proxy
that takes each new connection to the next address it is told: DNS itself, its caches and TTLs, is not exercised.
"""

import contextlib

import pytest

from drill import PATIENCE, Keeper
from proxy import Proxy
from stack import poll_until

SANDBOXES = 3
CALLS = ("calls", "compact.calls")


@pytest.fixture
def keeper(tmp_path):
    """A stack of this test's own."""
    kept = Keeper(tmp_path, sandboxes=SANDBOXES)
    yield kept
    kept.stop()


@pytest.fixture
def start(drill):
    """start(number) starts one more task and returns it."""
    with contextlib.ExitStack() as started:

        def start(number):
            task = drill.stack.another_task(number, f"127.0.0.{number}")
            for child in (task.collector, task.api):  # as dependsOn has them
                started.enter_context(child)
            return task

        yield start


def addresses(tasks):
    return [(task.host, task.ports.collector) for task in tasks]


def collectors(points, name):
    return {point.attributes["collector.instance.id"] for point in points if point.name == name}


@pytest.mark.slow
def test_one_of_two_tasks_replaced_under_load(drill, start):
    stack = drill.stack
    first, second = drill.tasks = [*drill.tasks, start(2)]
    with contextlib.ExitStack() as running:
        name = running.enter_context(Proxy(first.ports.collector))
        name.targets = addresses(drill.tasks)
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{name.port}"}
        for function in stack.functions:
            running.enter_context(drill.environment(function, **endpoint))

        drill.load(60, threads=12)
        row = drill.account()
        assert (row.accepted, row.lost, row.uncounted) == (60, 0, 0)  # RED, summed over both Collectors, is exact
        assert [len(collectors(stack.ingress.points(), calls)) for calls in CALLS] == [2, 2]
        assert all("Flush complete" in drill.log(function) for function in stack.functions)

        with drill.traffic(threads=4, pause=0.05):
            drill.tasks = [first]  # it gets no more requests, but what the function sends
            with drill.fault():
                second.api.stop()
                drill.stop_collector(task=second)
            name.targets = addresses([first])
            drill.tasks = [first, third] = [first, start(3)]
            name.targets = addresses(drill.tasks)
            arrived = lambda: drill.collector_counts("receiver_accepted_spans", [third])  # noqa: E731
            poll_until(lambda: arrived() > 50, "spans at the new address", PATIENCE)
        row = drill.account()
    assert (row.accepted, row.lost) == (row.processed, 0)
    points = stack.ingress.points()
    assert [len(collectors(points, calls)) for calls in CALLS] == [3, 3]
    assert len({(point.name, str(labels(point))) for point in points}) < len(
        points
    )  # the Collector's id keeps some apart


def labels(point):
    return sorted((name, value) for name, value in point.attributes.items() if name != "collector.instance.id")
