"""What happens to the API itself, under load, and what slow callers do to it."""

import contextlib
import socket
import time

import pytest

from stack import poll_until

slow = pytest.mark.slow
HALF_A_REQUEST = (
    b"POST /customers HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
)


@contextlib.contextmanager
def unfinished(drill, count, begun):
    """Hold count connections to the API, on each of which only begun was sent."""
    with contextlib.ExitStack() as held:
        for _ in range(count):
            connection = held.enter_context(socket.create_connection(("127.0.0.1", drill.stack.ports.api), timeout=60))
            connection.sendall(begun)
        yield


@slow
def test_api_worker_ended_in_order_under_load(drill):
    with drill.traffic(threads=4):
        drill.load(10)
        with drill.fault(seconds=2):
            first, _ = drill.workers()
            first.terminate()
        drill.load(10)
    row = drill.account()
    assert (row.accepted, row.ambiguous, row.lost) == (row.processed, 0, 0)


def test_api_worker_killed_under_load(drill):
    with drill.traffic(threads=4, pause=0.02):
        drill.load(10)
        with drill.fault("onboarding-api", seconds=2):
            first, _ = drill.workers()
            first.kill()
        drill.load(10)
    row = drill.account()
    assert row.accepted <= row.processed <= row.accepted + row.ambiguous
    assert row.dropped.keys() <= {"died with process"}


@slow
def test_api_restarted_in_order_under_load(drill):
    with drill.traffic(threads=4):
        drill.load(10)
        with drill.fault():
            drill.restart(drill.stack.api)
        drill.load(10)
    row = drill.account()
    assert row.accepted <= row.processed <= row.accepted + row.ambiguous
    assert row.lost == 0


def test_callers_that_never_finish(drill):
    with drill.fault(), unfinished(drill, 32, b""), unfinished(drill, 32, HALF_A_REQUEST):
        responses = drill.load(20)
    row = drill.account()
    assert max(response.seconds for response in responses) < 10
    assert (row.accepted, row.processed, row.ambiguous, row.lost) == (20, 20, 0, 0)


@slow
def test_more_callers_than_threads_that_never_finish(drill):
    with drill.fault(), unfinished(drill, 320, HALF_A_REQUEST):
        poll_until(lambda: drill.post().status == 202, "a free thread", 90)
    drill.load(5)
    row = drill.account()
    assert row.accepted == 6
    assert (row.processed <= row.accepted + row.ambiguous, row.lost) == (True, 0)


@slow
def test_caller_that_is_slow(drill):
    def pieces(body):
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]
            time.sleep(0.1)  # 10 kB/s

    body = b'{"customer_id":"TEST-slow"}'.ljust(65_536)
    with drill.fault():
        response = drill.post(headers={"Content-Length": str(len(body))}, body=pieces(body))
    row = drill.account()
    assert response.status == 202
    assert (row.accepted, row.processed, row.lost) == (1, 1, 0)
