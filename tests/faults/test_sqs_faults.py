"""What SQS does to the API: it is slow, fails, can't be reached, or takes a message and its response is lost."""

import pytest

from proxy import unreachable_port

slow = pytest.mark.slow
SQS = "AWS_ENDPOINT_URL_SQS"
# Two attempts of 1 s to connect and 2 s to respond, and the pause between them; the rest is the machine's.
LONGEST_SECONDS = 12
ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@slow
def test_sqs_slow(drill):
    with drill.proxy(drill.stack.api, SQS) as proxy:
        with drill.fault():
            proxy.delay = 0.5
            drill.load(20, threads=8)
        proxy.delay = 0
        row = drill.account()
    assert (row.accepted, row.processed, row.ambiguous, row.lost) == (20, 20, 0, 0)


def test_sqs_fails(drill):
    with drill.proxy(drill.stack.api, SQS) as proxy:
        with drill.fault():
            proxy.mode, proxy.reply = "respond", ERROR
            responses = drill.load(10)
        proxy.mode = "pass"
        drill.load(10)
        row = drill.account()
    assert {response.status for response in responses} == {503}
    assert (row.accepted, row.processed, row.lost) == (10, 10, 0)


def test_a_proxys_page_instead_of_sqs(drill):
    page = b"<html>Zugriff verweigert f\xfcr diese Adresse</html>"
    with drill.proxy(drill.stack.api, SQS) as proxy:
        with drill.fault():
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            proxy.mode, proxy.reply = "respond", head % len(page) + page
            responses = drill.load(10)
        proxy.mode = "pass"
        drill.load(10)
        row = drill.account()
    assert {response.status for response in responses} == {503}
    assert (row.accepted, row.processed, row.lost) == (10, 10, 0)


@slow
def test_sqs_unreachable(drill):
    with unreachable_port() as port:
        with drill.environment(drill.stack.api, **{SQS: f"http://127.0.0.1:{port}"}), drill.fault():
            responses = drill.load(8, threads=8)
        drill.load(5)
        row = drill.account()
    assert {response.status for response in responses} == {503}
    assert max(response.seconds for response in responses) < LONGEST_SECONDS
    assert (row.accepted, row.processed, row.lost) == (5, 5, 0)


@slow
def test_sqs_refuses_connections(drill):
    with drill.proxy(drill.stack.api, SQS) as proxy:
        with drill.fault():
            proxy.mode = "refuse"
            responses = drill.load(8)
        proxy.mode = "pass"
        drill.load(5)
        row = drill.account()
    assert {response.status for response in responses} == {503}
    assert (row.accepted, row.processed, row.lost) == (5, 5, 0)


@slow
def test_send_stored_and_its_response_lost(drill):
    with drill.proxy(drill.stack.api, SQS) as proxy:
        with drill.fault():
            proxy.mode = "deaf"
            responses = drill.load(8, threads=8)
        proxy.mode = "pass"
        proxy.cut()
        drill.load(5)
        row = drill.account()
    assert {response.status for response in responses} == {503}
    assert max(response.seconds for response in responses) < LONGEST_SECONDS
    assert row.accepted == 5
    assert row.processed > row.accepted + len(responses)  # each was stored, once more by the second attempt
