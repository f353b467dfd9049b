"""Records as Lambda's event source for SQS sends them: https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html."""

import json
import uuid

QUEUE_ARN = "arn:aws:sqs:us-east-1:000000000000:cal-onboarding-queue"


def traceparent(trace_id=None, span_id=None):
    """Return a traceparent as the API sends it, of a producer of its own unless ids (numbers) are given."""
    trace_id, span_id = trace_id or uuid.uuid4().int, span_id or uuid.uuid4().int >> 64
    return f"00-{trace_id:032x}-{span_id:016x}-03"


def record(**fields):
    """Return one record of a message of the API, with new ids; fields replace its own, None leaves one out.

    A body that is not a string is serialised.
    """
    message_id = fields.get("messageId") or str(uuid.uuid4())
    complete = {
        "messageId": message_id,
        "receiptHandle": f"handle-{message_id}",
        "body": {"customer_id": "TEST-001", "request_id": str(uuid.uuid4()), "source": "customers"},
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": "1700000000000",
            "SenderId": "AIDAEXAMPLE",
            "ApproximateFirstReceiveTimestamp": "1700000000001",
        },
        "messageAttributes": {
            "traceparent": {
                "stringValue": traceparent(),
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": "String",
            }
        },
        "md5OfBody": "",
        "eventSource": "aws:sqs",
        "eventSourceARN": QUEUE_ARN,
        "awsRegion": "us-east-1",
        **fields,
    }
    if not isinstance(complete["body"], str | None):
        complete["body"] = json.dumps(complete["body"])
    return {name: value for name, value in complete.items() if value is not None}
