"""Sends messages as often as each line on standard input says: send.py VARIANT, auto-instrumented or not.

A line is "BATCH CALLS"; the result is a line of JSON: CPU seconds of the process for all of it. BATCH 1 is SendMessage,
more is SendMessageBatch.
"""

import json
import os
import sys
import time

import boto3
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind

import app

BODY = json.dumps({"customer_id": "TEST-001", "request_id": "0" * 36, "source": "smoke"})
QUEUE_URL = os.environ["QUEUE_URL"]
tracer = trace.get_tracer("onboarding-api")


def alone(sqs, batch):
    """Send without a thought of telemetry; what instruments boto3 does the rest."""
    if batch == 1:
        return sqs.send_message(QueueUrl=QUEUE_URL, MessageBody=BODY)
    entries = [{"Id": str(number), "MessageBody": BODY} for number in range(batch)]
    return sqs.send_message_batch(QueueUrl=QUEUE_URL, Entries=entries)


def ours(sqs, batch):
    """Send as the API does; a batch with one producer span and context for each of its messages."""
    if batch == 1:
        return app.queue_for_processing(sqs, QUEUE_URL, BODY)
    entries = []
    for number in range(batch):
        with tracer.start_as_current_span("sqs.send", kind=SpanKind.PRODUCER) as span:
            span.set_attribute("messaging.system", "aws.sqs")
            span.set_attribute("messaging.destination.name", QUEUE_URL.rsplit("/", 1)[-1])
            span.set_attribute("messaging.operation.name", "send")
            span.set_attribute("messaging.operation.type", "send")
            carrier = {}
            propagate.inject(carrier)
        attributes = {key: {"DataType": "String", "StringValue": value} for key, value in carrier.items()}
        entries.append({"Id": str(number), "MessageBody": BODY, "MessageAttributes": attributes})
    return sqs.send_message_batch(QueueUrl=QUEUE_URL, Entries=entries)


def main(variant):
    """Serve lines until there are no more."""
    sqs = boto3.client("sqs", region_name=os.environ["AWS_REGION"], config=app.SQS_CONFIG)
    send = ours if variant == "ours" else alone
    for line in sys.stdin:
        batch, calls = map(int, line.split())
        began = time.process_time()
        for _ in range(calls):
            send(sqs, batch)
        if provider := getattr(trace.get_tracer_provider(), "force_flush", None):
            provider()  # so that what is sent later counts as well
        print(json.dumps({"cpu": time.process_time() - began}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
