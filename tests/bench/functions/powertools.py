"""The function traced by Powertools' Tracer, as its documentation does."""

from aws_lambda_powertools import Tracer
from business import failures, process

tracer = Tracer()


@tracer.capture_method
def _process_record(record):
    tracer.put_annotation(key="message_id", value=record["messageId"])
    process(record)


@tracer.capture_lambda_handler
def handler(event, context):
    """Process an SQS event."""
    return failures(event["Records"], _process_record)
