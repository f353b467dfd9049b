"""Onboarding Lambda: processes SQS records, each inside the trace of the request that sent it."""

import json
import logging
import re
import time

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, StatusCode

import telemetry

IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")
RESERVED_MILLIS = 4000  # no record is begun with less time left: the flush, its margin and one slow record

log = logging.getLogger("onboarding-lambda")
log.setLevel(logging.INFO)
tracer = trace.get_tracer("onboarding-lambda")


def handler(event, context):
    """Process an SQS event and report exactly the records that failed.

    event: {"Records": [...]} as Lambda's SQS event source sends it; context: the Lambda context object.
    Returns {"batchItemFailures": [{"itemIdentifier": messageId}, ...]}, the partial batch response:
    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
    """
    try:
        # A trace of its own, so that no record can inherit another's. SERVER because Coralogix lists a service by its
        # SERVER spans, and CONSUMER would count every invocation among the records.
        invocation = telemetry.invocation_attributes(context)
        with tracer.start_as_current_span("sqs.batch", Context(), SpanKind.SERVER, invocation) as batch:
            records = event["Records"]
            batch.set_attribute("messaging.batch.message_count", len(records))
            failed = [record["messageId"] for record in records if not _process_record(record, context)]
            if failed:
                batch.set_status(StatusCode.ERROR, f"{len(failed)} of {len(records)} records failed")
    finally:
        telemetry.flush(context)  # every span has ended; once this function returns, the sandbox may freeze
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}


def _process_record(record, context):
    """Process one record in a span under its producer, linked to the batch, as that to the producer; return success."""
    batch, span = trace.get_current_span(), trace.INVALID_SPAN
    try:
        parent = _extract_parent(record)
        producer = trace.get_current_span(parent).get_span_context()
        if producer.is_valid:
            batch.add_link(producer)
        links = [Link(batch.get_span_context())]
        with tracer.start_as_current_span("sqs.process", parent, SpanKind.CONSUMER, links=links) as span:
            span.set_attribute("messaging.system", "aws.sqs")
            span.set_attribute("messaging.destination.name", record["eventSourceARN"].rsplit(":", 1)[-1])
            span.set_attribute("messaging.operation.name", "process")
            span.set_attribute("messaging.operation.type", "process")
            span.set_attribute("messaging.message.id", record["messageId"])
            span.set_attribute("aws.sqs.receive_count", _receive_count(record))
            span.set_attribute("faas.invocation_id", context.aws_request_id)
            if context.get_remaining_time_in_millis() < RESERVED_MILLIS:
                raise TimeoutError("too little time is left in this invocation")
            process(record)
    except Exception as error:  # outside the span, which has recorded it and is ERROR by now
        log.error("failed message_id=%s trace_id=%s: %r", record["messageId"], _trace_id(span), error)
        return False
    return True


def process(message):
    """Validate one SQS message and onboard its customer: the business. Raises ValueError when it is not valid."""
    customer = json.loads(message["body"])
    if not isinstance(customer, dict):
        raise ValueError("the body is not a JSON object")
    for key in ("customer_id", "request_id"):
        if not (isinstance(customer.get(key), str) and IDENTIFIER.fullmatch(customer[key])):
            raise ValueError(f"{key} is not a string of 1 to 64 characters out of A-Z, a-z, 0-9, _ and -")
    _simulate(customer.get("simulate"), _receive_count(message))
    ids = (customer["customer_id"], customer["request_id"], message["messageId"], _trace_id(trace.get_current_span()))
    log.info("onboarded customer_id=%s request_id=%s message_id=%s trace_id=%s", *ids)


def _simulate(what, receive_count):
    """Fail or be slow because the smoke request asked for it, to show retries, dead letters and errors on demand."""
    if what == "failure" or (what == "failure_once" and receive_count == 1):
        raise RuntimeError(f"simulate={what}")
    if what == "slow":
        time.sleep(1)


def _receive_count(record):
    """Return how often SQS has delivered this record, 1 for the first time."""
    return int(record["attributes"]["ApproximateReceiveCount"])


def _trace_id(span):
    return trace.format_trace_id(span.get_span_context().trace_id)


def _extract_parent(record):
    """Return the Context the producer injected, or an empty one, so that a record without it starts a new trace."""
    attributes = _flatten_attrs(record.get("messageAttributes"))
    # The SDK would log a control character as it is, and raise for a lone surrogate; a valid header has neither.
    carrier = {name: value for name, value in attributes.items() if value.isprintable()}
    parent = propagate.extract(carrier, Context())
    producer = trace.get_current_span(parent).get_span_context()
    if producer.is_valid:
        ids = (trace.format_trace_id(producer.trace_id), trace.format_span_id(producer.span_id), producer.trace_flags)
        log.info("extracted traceparent 00-%s-%s-%02x", *ids)
    return parent


def _flatten_attrs(message_attributes):
    """Return {lower-case name: value} of the attributes that have a string value; any other shape is left out.

    message_attributes: {"traceparent": {"stringValue": "00-...", "dataType": "String"}} as Lambda spells it, or
    "StringValue" as the SQS API does.
    """
    if not isinstance(message_attributes, dict):
        return {}
    return {
        name.lower(): value
        for name, attribute in message_attributes.items()
        if isinstance(attribute, dict)
        and isinstance(value := attribute.get("stringValue") or attribute.get("StringValue"), str)
    }
