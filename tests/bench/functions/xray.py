"""The function traced by the AWS X-Ray SDK alone."""

from aws_xray_sdk.core import xray_recorder
from business import failures, process


def _process_record(record):
    with xray_recorder.in_subsegment("sqs.process") as subsegment:
        subsegment.put_annotation("message_id", record["messageId"])
        process(record)


def handler(event, context):
    """Process an SQS event."""
    return failures(event["Records"], _process_record)
