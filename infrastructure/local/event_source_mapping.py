"""Stand-in for Lambda's event source mapping for SQS: long poll, batch, partial batch response, several sandboxes.

Visibility and redrive are left to the queue. The rules for what a response means:
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
"""

import base64
import contextlib
import http.client
import json
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import botocore.session
from botocore.exceptions import BotoCoreError, ClientError

import shipped

QUEUE, DEAD_LETTER_QUEUE = "cal-onboarding-queue", "cal-onboarding-dlq"

log = logging.getLogger(__name__)


class EventSourceMapping:
    """Polls queue_url and invokes the function with up to batch_size records; a context manager.

    sqs: an SQS client; invoke_url: the emulator's .../2015-03-31/functions/function/invocations, and
    more_invoke_urls those of further sandboxes: as many invocations run at once as there are sandboxes.
    The attribute observe is None, or is called after every invocation with its records and the function's raw response.
    """

    observe: Callable[[list[dict[str, Any]], bytes], None] | None = None

    def __init__(
        self, sqs: Any, queue_url: str, invoke_url: str, batch_size: int, more_invoke_urls: Sequence[str] = ()
    ) -> None:
        self._sqs = sqs
        self._queue_url = queue_url
        self._invoke_urls = (invoke_url, *more_invoke_urls)
        self._batch_size = min(batch_size, 10)  # what one receive returns at most
        attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]
        self._queue_arn = attributes["QueueArn"]
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self._stop.clear()
        self._pollers = [
            threading.Thread(target=self.run, args=(number,), daemon=True) for number in range(len(self._invoke_urls))
        ]
        for poller in self._pollers:
            poller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for poller in self._pollers:
            poller.join()

    def stop(self) -> None:
        """Begin no further poll."""
        self._stop.set()

    def running(self) -> bool:
        """Return whether every poller that was started lives, or none is meant to."""
        return self._stop.is_set() or all(poller.is_alive() for poller in self._pollers)

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Deliver nothing while the block runs, as a mapping with Enabled=False; running invocations end first."""
        self.__exit__()
        yield
        self.__enter__()

    def run(self, sandbox: int = 0) -> None:
        """Deliver to one sandbox until the mapping ends; an SQS or a sandbox that is away for a while is waited for."""
        while not self._stop.is_set():
            try:
                self.poll(sandbox)
            except (BotoCoreError, ClientError, OSError, http.client.HTTPException) as error:
                if not self._stop.is_set():
                    log.warning("poll failed: %r", error)
                self._stop.wait(0.5)

    def poll(self, sandbox: int) -> None:
        """Receive one batch, invoke the function, and delete what it processed."""
        received = self._sqs.receive_message(
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=self._batch_size,
            WaitTimeSeconds=1,
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        ).get("Messages", [])
        if not received:
            return
        response = self.invoke([self._record(message) for message in received], sandbox)
        failed = failed_ids(response, [message["MessageId"] for message in received])
        done = [message for message in received if message["MessageId"] not in failed]
        if done:
            entries = [{"Id": m["MessageId"], "ReceiptHandle": m["ReceiptHandle"]} for m in done]
            self._sqs.delete_message_batch(QueueUrl=self._queue_url, Entries=entries)

    def invoke(self, records: list[dict[str, Any]], sandbox: int = 0) -> bytes:
        """Call the function in one of its sandboxes with records as Lambda spells them; return its raw response."""
        response = _invoke(self._invoke_urls[sandbox], {"Records": records})
        if self.observe:
            self.observe(records, response)
        return response

    def _record(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a message of the SQS API as Lambda spells it in an event."""
        attributes = message.get("MessageAttributes", {})
        return {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message["Attributes"],
            "messageAttributes": {name: _attribute(attribute) for name, attribute in attributes.items()},
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": self._queue_arn,
            "awsRegion": self._queue_arn.split(":")[3],
        }


def _attribute(attribute: dict[str, Any]) -> dict[str, Any]:
    """Return a message attribute of the SQS API as Lambda spells it; a Number is a string, a Binary is in Base64."""
    value = {}
    if "StringValue" in attribute:
        value["stringValue"] = attribute["StringValue"]
    if "BinaryValue" in attribute:
        value["binaryValue"] = base64.b64encode(attribute["BinaryValue"]).decode()
    return {**value, "stringListValues": [], "binaryListValues": [], "dataType": attribute["DataType"]}


def failed_ids(response: bytes, message_ids: list[str]) -> set[str]:
    """Return the message ids that an invocation did not process: none, those it listed, or all of them.

    response: the function's, raw; an error of the function also arrives as a body, with errorType.
    """
    everything = set(message_ids)
    try:
        result = json.loads(response) if response.strip() else None
    except (ValueError, RecursionError):
        return everything  # not JSON: also the emulator's "Task timed out after 15.00 seconds"
    if not isinstance(result, dict):
        return set() if result is None else everything
    if "errorType" in result:
        return everything
    failures = result.get("batchItemFailures") or []
    if not (isinstance(failures, list) and all(isinstance(item, dict) for item in failures)):
        return everything
    identifiers = [item.get("itemIdentifier") for item in failures]
    return set(identifiers) if all(identifier in message_ids for identifier in identifiers) else everything


def _invoke(url: str, event: dict[str, Any]) -> bytes:
    request = urllib.request.Request(url, json.dumps(event).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=900) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as error:  # the runtime exited
        return error.read()


def sqs_client(region: str, **options: str) -> Any:
    """Return an SQS client; boto3 would return the same one and take three times as long to import."""
    return botocore.session.get_session().create_client("sqs", region_name=region, **options)


def create_queues(sqs: Any, visibility_timeout: int | None = None) -> tuple[str, str]:
    """Create both queues with the template's attributes; return (dead-letter queue's URL, queue's URL).

    visibility_timeout: in seconds, in place of the template's.
    """
    properties = shipped.queue_properties()
    dead_letter_url = sqs.create_queue(QueueName=DEAD_LETTER_QUEUE)["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=dead_letter_url, AttributeNames=["QueueArn"])["Attributes"]
    redrive = properties["RedrivePolicy"] | {"deadLetterTargetArn": attributes["QueueArn"]}
    visibility_timeout = visibility_timeout or properties["VisibilityTimeout"]
    attributes = {"VisibilityTimeout": str(visibility_timeout), "RedrivePolicy": json.dumps(redrive)}
    return dead_letter_url, sqs.create_queue(QueueName=QUEUE, Attributes=attributes)["QueueUrl"]
