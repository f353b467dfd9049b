"""The stand-in for Lambda's event source mapping: what it delivers, what it deletes, and that nothing ends it.

The rules: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
"""

import http.client
import json
import threading
from types import SimpleNamespace

import pytest

import event_source_mapping
from event_source_mapping import EventSourceMapping, failed_ids
from records import QUEUE_ARN
from stack import Stack, StackError, poll_until

BATCH = ["a", "b", "c"]
ALL = set(BATCH)


def failures(*identifiers):
    return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in identifiers]}


@pytest.mark.parametrize(
    ("response", "failed"),
    [
        pytest.param(b"", set(), id="empty response"),
        pytest.param(b" \n", set(), id="white space"),
        pytest.param(b"null", set(), id="null"),
        pytest.param({}, set(), id="empty object"),
        pytest.param({"statusCode": 200}, set(), id="object without batchItemFailures"),
        pytest.param({"batchItemFailures": []}, set(), id="empty list"),
        pytest.param({"batchItemFailures": None}, set(), id="null list"),
        pytest.param(failures("b"), {"b"}, id="one record"),
        pytest.param(failures("b", "b"), {"b"}, id="one record twice"),
        pytest.param(failures("a", "b", "c"), ALL, id="every record"),
        pytest.param(failures("b", "unknown"), ALL, id="unknown identifier"),
        pytest.param(failures(""), ALL, id="empty identifier"),
        pytest.param(failures(None), ALL, id="null identifier"),
        pytest.param(failures(1), ALL, id="identifier a number"),
        pytest.param(failures(["b"]), ALL, id="identifier a list"),
        pytest.param({"batchItemFailures": [{"ItemIdentifier": "b"}]}, ALL, id="wrong key"),
        pytest.param({"batchItemFailures": [{}]}, ALL, id="no key"),
        pytest.param({"batchItemFailures": ["b"]}, ALL, id="identifiers without objects"),
        pytest.param({"batchItemFailures": [None]}, ALL, id="null item"),
        pytest.param({"batchItemFailures": "b"}, ALL, id="string for the list"),
        pytest.param({"batchItemFailures": {"itemIdentifier": "b"}}, ALL, id="object for the list"),
        pytest.param({"batchItemFailures": 1}, ALL, id="number for the list"),
        pytest.param(b"{", ALL, id="malformed JSON"),
        pytest.param(b"\xff", ALL, id="no text"),
        pytest.param(b"[" * 100_000, ALL, id="nested by the thousand"),
        pytest.param(b"Task timed out after 15.00 seconds", ALL, id="timeout as the emulator says it"),
        pytest.param({"errorType": "KeyError", "errorMessage": "'Records'"}, ALL, id="error of the function"),
        pytest.param({"errorType": "Runtime.ExitError"}, ALL, id="exit of the runtime"),
    ],
)
def test_a_response_fails_the_records_the_documentation_says(response, failed):
    assert failed_ids(response if isinstance(response, bytes) else json.dumps(response).encode(), BATCH) == failed


@pytest.mark.parametrize("response", [b'"done"', b'""', b"[]", b"0", b"1", b"false", b"true"])
def test_a_response_the_documentation_does_not_speak_of_deletes_nothing(response):
    assert failed_ids(response, BATCH) == ALL


class Queue:
    """SQS with these messages waiting, each handed out alone and once; deleted: the ids of those that are done."""

    def __init__(self, *messages):
        self.waiting, self.deleted = list(messages), []

    def get_queue_attributes(self, **_):
        """Return what the mapping asks for."""
        return {"Attributes": {"QueueArn": QUEUE_ARN}}

    def receive_message(self, **_):
        """Hand out the next message."""
        return {"Messages": [self.waiting.pop(0)]} if self.waiting else {}

    def delete_message_batch(self, Entries, **_):
        """Note what is deleted."""
        self.deleted += [entry["Id"] for entry in Entries]


def message(message_id, **attributes):
    """Return a message of the SQS API."""
    return {
        "MessageId": message_id,
        "ReceiptHandle": message_id,
        "Body": "{}",
        "MD5OfBody": "",
        "Attributes": {"ApproximateReceiveCount": "1"},
        "MessageAttributes": attributes,
    }


@pytest.fixture
def delivered(monkeypatch):
    """delivered(queue, respond) runs a mapping until the queue is empty and returns the records that it delivered.

    respond: what the function does with an invocation; returns its response.
    """

    def run(queue, respond=lambda: b""):
        records = []

        def invoke(_, event):
            records.extend(json.loads(json.dumps(event))["Records"])
            return respond()

        monkeypatch.setattr(event_source_mapping, "_invoke", invoke)
        with EventSourceMapping(queue, "queue", "function", 5) as mapping:
            poll_until(lambda: not queue.waiting, "an empty queue")
            assert mapping.running()
        return records

    return run


@pytest.mark.parametrize(
    ("attribute", "spelled"),
    [
        pytest.param({"DataType": "String", "StringValue": "x"}, {"stringValue": "x"}, id="String"),
        pytest.param({"DataType": "String.json", "StringValue": "{}"}, {"stringValue": "{}"}, id="custom String"),
        pytest.param({"DataType": "Number", "StringValue": "1.50"}, {"stringValue": "1.50"}, id="Number"),
        pytest.param({"DataType": "Number.float", "StringValue": "-0"}, {"stringValue": "-0"}, id="custom Number"),
        pytest.param({"DataType": "Binary", "BinaryValue": b"abc"}, {"binaryValue": "YWJj"}, id="Binary"),
        pytest.param({"DataType": "Binary.png", "BinaryValue": b"\xff"}, {"binaryValue": "/w=="}, id="custom Binary"),
    ],
)
def test_every_type_of_attribute_is_delivered_as_lambda_spells_it(delivered, attribute, spelled):
    (record,) = delivered(Queue(message("one", name=attribute)))
    lists = {"stringListValues": [], "binaryListValues": []}
    assert record["messageAttributes"] == {"name": {**spelled, **lists, "dataType": attribute["DataType"]}}


def test_a_message_without_attributes_is_delivered(delivered):
    bare = message("one")
    del bare["MessageAttributes"]
    assert [record["messageAttributes"] for record in delivered(Queue(bare))] == [{}]


@pytest.mark.parametrize(
    "response",
    [b"", b"null", b"{", b"\xff", b"[" * 100_000, b"9" * 10_000, b'{"batchItemFailures": [{"itemIdentifier": {}}]}'],
)
def test_no_response_ends_the_delivery(delivered, response):
    records = delivered(Queue(message("one"), message("two")), lambda: response)
    assert [record["messageId"] for record in records] == ["one", "two"]


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError(), TimeoutError(), http.client.BadStatusLine("x"), http.client.IncompleteRead(b"")]
)
def test_a_sandbox_that_does_not_respond_ends_no_delivery_and_deletes_nothing(delivered, error):
    def fail():
        raise error

    queue = Queue(message("one"), message("two"))
    assert [record["messageId"] for record in delivered(queue, fail)] == ["one", "two"]
    assert queue.deleted == []


def test_what_was_processed_is_deleted_and_nothing_else(delivered):
    responses = iter([json.dumps(failures("one")).encode(), b""])
    queue = Queue(message("one"), message("two"))
    delivered(queue, lambda: next(responses))
    assert queue.deleted == ["two"]


def test_as_many_invocations_run_at_once_as_there_are_sandboxes(monkeypatch):
    together = threading.Barrier(3, timeout=30)
    urls = []

    def invoke(url, _):
        together.wait()
        urls.append(url)
        return b""

    monkeypatch.setattr(event_source_mapping, "_invoke", invoke)
    queue = Queue(*(message(str(number)) for number in range(3)))
    with EventSourceMapping(queue, "queue", "first", 5, ["second", "third"]):
        poll_until(lambda: len(urls) == 3, "three invocations")
    assert sorted(urls) == ["first", "second", "third"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_delivery_that_has_ended_by_a_mistake_of_ours_is_said(tmp_path):
    stack = Stack(tmp_path)
    stack.moto = stack.collector = stack.api = SimpleNamespace(running=lambda: True)
    stack.functions = []
    with EventSourceMapping(Queue(message("one") | {"MessageAttributes": 1}), "queue", "function", 5) as stack.mapping:
        poll_until(lambda: not stack.mapping.running(), "the end of the delivery")
        with pytest.raises(StackError, match="event source mapping has died"):
            stack.check_running()


def test_a_mapping_that_is_disabled_is_not_dead():
    with EventSourceMapping(Queue(), "queue", "function", 5) as mapping:
        with mapping.disabled():
            assert mapping.running()
        assert mapping.running()
