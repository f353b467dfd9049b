"""Stand-in for Lambda's SQS event source mapping: long poll, batch, partial batch response.

Visibility and redrive are left to the queue. The rules for what a response means:
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
"""

import contextlib
import json
import logging
import os
import threading
import urllib.error
import urllib.request

import boto3
from botocore.exceptions import BotoCoreError, ClientError

import shipped

QUEUE, DEAD_LETTER_QUEUE = "cal-onboarding-queue", "cal-onboarding-dlq"

log = logging.getLogger(__name__)


class EventSourceMapping:
    """Polls queue_url and invokes the function at invoke_url with up to batch_size records; a context manager.

    sqs: a boto3 SQS client; invoke_url: the emulator's .../2015-03-31/functions/function/invocations.
    The attribute observe is None, or is called after every invocation with its records and the function's raw answer.
    """

    def __init__(self, sqs, queue_url, invoke_url, batch_size):
        self._sqs = sqs
        self._queue_url = queue_url
        self._invoke_url = invoke_url
        self._batch_size = min(batch_size, 10)  # what one receive returns at most
        attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]
        self._queue_arn = attributes["QueueArn"]
        self._stop = threading.Event()
        self.observe = None

    def __enter__(self):
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="event-source-mapping", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    @contextlib.contextmanager
    def disabled(self):
        """Deliver nothing while the block runs, as a mapping with Enabled=False; a running invocation ends first."""
        self.__exit__()
        yield
        self.__enter__()

    def _run(self):
        while not self._stop.is_set():
            try:
                self.poll()
            except (BotoCoreError, ClientError, OSError) as error:
                log.warning("poll failed: %r", error)
                self._stop.wait(0.5)

    def poll(self):
        """Receive one batch, invoke the function, and delete what it processed; return the function's raw answer."""
        received = self._sqs.receive_message(
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=self._batch_size,
            WaitTimeSeconds=1,
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        ).get("Messages", [])
        if not received:
            return None
        records = [self._record(message) for message in received]
        answer = self.invoke(records)
        failed = failed_ids(answer, [message["MessageId"] for message in received])
        done = [message for message in received if message["MessageId"] not in failed]
        if done:
            entries = [{"Id": m["MessageId"], "ReceiptHandle": m["ReceiptHandle"]} for m in done]
            self._sqs.delete_message_batch(QueueUrl=self._queue_url, Entries=entries)
        return answer

    def invoke(self, records):
        """Call the function with records as Lambda spells them; return its raw answer."""
        answer = _invoke(self._invoke_url, {"Records": records})
        if self.observe:
            self.observe(records, answer)
        return answer

    def _record(self, message):
        """Return a message of the SQS API as Lambda spells it in an event."""
        attributes = {
            name: {
                "stringValue": value["StringValue"],
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": value["DataType"],
            }
            for name, value in message.get("MessageAttributes", {}).items()
        }
        return {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message["Attributes"],
            "messageAttributes": attributes,
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": self._queue_arn,
            "awsRegion": self._queue_arn.split(":")[3],
        }


def failed_ids(answer, message_ids):
    """Return the message ids that an invocation did not process: none, those it listed, or all of them.

    answer: the response body as bytes; an error of the function also arrives as a body, with errorType.
    """
    everything = set(message_ids)
    try:
        response = json.loads(answer) if answer.strip() else None
    except (ValueError, RecursionError):
        return everything  # not JSON: also the emulator's "Task timed out after 15.00 seconds"
    if not isinstance(response, dict):
        return set() if response is None else everything
    if "errorType" in response:
        return everything
    failures = response.get("batchItemFailures") or []
    if not (isinstance(failures, list) and all(isinstance(item, dict) for item in failures)):
        return everything
    identifiers = [item.get("itemIdentifier") for item in failures]
    return set(identifiers) if all(identifier in message_ids for identifier in identifiers) else everything


def _invoke(url, event):
    request = urllib.request.Request(url, json.dumps(event).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=900) as response:
            return response.read()
    except urllib.error.HTTPError as error:  # the runtime exited
        return error.read()


def create_queues(sqs, visibility_timeout=None):
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


def main():
    """Create the queues and deliver, in a container; boto3 reads SQS's address and keys from the environment."""
    logging.basicConfig()
    sqs = boto3.client("sqs", os.environ["AWS_REGION"])
    _, queue_url = create_queues(sqs)
    batch_size = shipped.read_json("event-source-mapping.json")["BatchSize"]
    EventSourceMapping(sqs, queue_url, os.environ["INVOKE_URL"], batch_size)._run()


if __name__ == "__main__":
    main()
