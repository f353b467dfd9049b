"""A test sees nothing of the threads of another test's stack, whatever they do in the same process."""

import logging
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest


@pytest.fixture
def in_another_thread():
    """Call a function in another thread; return what it returned."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda call: pool.submit(call).result()


def test_a_span_that_ends_in_another_thread_is_not_the_tests(api, in_another_thread):
    client = boto3.client("sqs", "us-east-1", endpoint_url="http://127.0.0.1:9")
    send = lambda: client.send_message(QueueUrl="http://127.0.0.1:9/queue", MessageBody="x")  # noqa: E731
    in_another_thread(send)
    assert api.spans.get_finished_spans() == ()
    send()
    assert [span.name for span in api.spans.get_finished_spans()] == ["SQS.SendMessage"]


def test_a_line_that_another_thread_logs_is_not_the_tests(caplog, in_another_thread):
    log = logging.getLogger("event_source_mapping")
    caplog.set_level(logging.WARNING, log.name)
    in_another_thread(lambda: log.warning("of another thread"))
    log.warning("of this thread")
    assert caplog.messages == ["of this thread"]
