"""What SQS does to the API: it is slow, fails, can't be reached, or takes a message and its answer gets lost."""

import pytest

from proxy import unreachable_port

slow = pytest.mark.slow
SQS = "AWS_ENDPOINT_URL_SQS"
# Two attempts of 1 s to connect and 2 s to answer, and the pause between them; the rest is the machine's.
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
            answers = drill.load(10)
        proxy.mode = "pass"
        drill.load(10)
        row = drill.account()
    assert {answer.status for answer in answers} == {503}
    assert (row.accepted, row.processed, row.lost) == (10, 10, 0)


@slow
def test_sqs_unreachable(drill):
    with unreachable_port() as port:
        with drill.environment(drill.stack.api, **{SQS: f"http://127.0.0.1:{port}"}), drill.fault():
            answers = drill.load(8, threads=8)
        drill.load(5)
        row = drill.account()
    assert {answer.status for answer in answers} == {503}
    assert max(answer.seconds for answer in answers) < LONGEST_SECONDS
    assert (row.accepted, row.processed, row.lost) == (5, 5, 0)


@slow
def test_sqs_refuses_connections(drill):
    with drill.proxy(drill.stack.api, SQS) as proxy:
        with drill.fault():
            proxy.mode = "refuse"
            answers = drill.load(8)
        proxy.mode = "pass"
        drill.load(5)
        row = drill.account()
    assert {answer.status for answer in answers} == {503}
    assert (row.accepted, row.processed, row.lost) == (5, 5, 0)


@slow
def test_send_stored_and_its_answer_lost(drill):
    with drill.proxy(drill.stack.api, SQS) as proxy:
        with drill.fault():
            proxy.mode = "deaf"
            answers = drill.load(8, threads=8)
        proxy.mode = "pass"
        proxy.cut()
        drill.load(5)
        row = drill.account()
    assert {answer.status for answer in answers} == {503}
    assert max(answer.seconds for answer in answers) < LONGEST_SECONDS
    assert row.accepted == 5
    assert row.processed > row.accepted + len(answers)  # each was stored, once more by the second attempt
