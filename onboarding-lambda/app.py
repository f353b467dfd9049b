"""Onboarding Lambda: processes SQS records, each inside the trace of the request that sent it."""

import json
import logging
import re
import time
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Link, Span, SpanKind, StatusCode

import telemetry

IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")
# With less than RESERVED_MILLIS left a record is rejected: it might take the whole batch into the timeout. That uses up
# one of its deliveries, so keep BatchSize * SLOWEST_RECORD_MILLIS + RESERVED_MILLIS at or below Timeout.
SLOWEST_RECORD_MILLIS = 1500
RESERVED_MILLIS = SLOWEST_RECORD_MILLIS + telemetry.FLUSH_MILLIS + telemetry.MARGIN_MILLIS

log = logging.getLogger("onboarding-lambda")
tracer = trace.get_tracer("onboarding-lambda")


def handler(event: dict[str, Any], context: telemetry.LambdaContext) -> dict[str, list[dict[str, str]]]:
    """Process an SQS event and report exactly the records that failed.

    event: {"Records": [...]}; returns {"batchItemFailures": [{"itemIdentifier": messageId}, ...]}, the partial batch
    response: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
    """
    try:
        # A trace of its own, so that no record can inherit another's. SERVER because Coralogix lists a service by its
        # SERVER spans, and CONSUMER would count every invocation among the records.
        with tracer.start_as_current_span(
            "sqs.batch", context=Context(), kind=SpanKind.SERVER, attributes=telemetry.invocation_attributes(context)
        ) as batch:
            records = event["Records"]
            batch.set_attribute("messaging.batch.message_count", len(records))
            failed = [record["messageId"] for record in records if not _process_record(record, context, batch)]
            if failed:
                batch.set_status(StatusCode.ERROR, description=f"{len(failed)} of {len(records)} records failed")
    finally:
        telemetry.flush(context)  # every span has ended; once this function returns, the sandbox may freeze
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}


def _process_record(record: dict[str, Any], context: telemetry.LambdaContext, batch: Span) -> bool:
    """Process one record in a span of its own, which is a child of the producer's; return whether that succeeded."""
    parent = _extract_parent(record)
    token = attach(parent)  # process() sees this record's baggage, and passes it on to what it calls
    span = trace.get_current_span()  # the producer's until the record has its own
    try:
        batch.add_link(span.get_span_context())  # ignored if there is no producer
        links, attributes = [Link(batch.get_span_context())], _attributes(record, context)
        with tracer.start_as_current_span(
            "sqs.process", context=parent, kind=SpanKind.CONSUMER, attributes=attributes, links=links
        ) as span:
            if context.get_remaining_time_in_millis() < RESERVED_MILLIS:
                raise TimeoutError("too little time is left in this invocation")
            process(record)
    except Exception as error:  # outside the span, which has recorded it and is ERROR by now
        # Its text is on the span only: it may quote the message, and a customer's words do not belong in a log.
        ids = (record["messageId"], span.get_span_context().trace_id)
        log.error("failed message_id=%s trace_id=%032x: %s", *ids, type(error).__name__)
        return False
    finally:
        detach(token)
    return True


def _attributes(record: dict[str, Any], context: telemetry.LambdaContext) -> dict[str, str | int]:
    return {
        "messaging.system": "aws.sqs",
        "messaging.destination.name": str(record.get("eventSourceARN", "")).rsplit(":", 1)[-1],
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.message.id": record["messageId"],
        "aws.sqs.receive_count": _receive_count(record),
        "faas.invocation_id": context.aws_request_id,
    }


def process(message: dict[str, Any]) -> None:
    """Validate one SQS message and onboard its customer: the business. Raises ValueError when it is not valid."""
    customer = json.loads(message["body"])
    if not isinstance(customer, dict):
        raise ValueError("the body is not a JSON object")
    for key in ("customer_id", "request_id"):
        if not (isinstance(customer.get(key), str) and IDENTIFIER.fullmatch(customer[key])):
            raise ValueError(f"{key} is not a string of 1 to 64 characters out of A-Z, a-z, 0-9, _ and -")
    _simulate(customer.get("simulate"), _receive_count(message))
    trace_id = trace.get_current_span().get_span_context().trace_id
    ids = (customer["customer_id"], customer["request_id"], message["messageId"], trace_id)
    log.info("onboarded customer_id=%s request_id=%s message_id=%s trace_id=%032x", *ids)


def _simulate(what: Any, receive_count: int) -> None:
    """Fail or be slow because the smoke request asked for it, to show retries, dead letters and errors on demand."""
    if what == "failure" or (what == "failure_once" and receive_count == 1):
        raise RuntimeError(f"simulate={what}")
    if what == "slow":
        time.sleep(1)


def _receive_count(record: dict[str, Any]) -> int:
    """Return how often SQS has delivered this record, 1 for the first time."""
    return int(record.get("attributes", {}).get("ApproximateReceiveCount", 1))


def _extract_parent(record: dict[str, Any]) -> Context:
    """Return the Context the producer injected, or an empty one, so that a record without it starts a new trace."""
    attributes = _flatten_attrs(record.get("messageAttributes"))
    # W3C allows spaces and tabs. The propagators would accept a line end, and raise for a lone surrogate.
    carrier = {name: value for name, value in attributes.items() if value.replace("\t", " ").isprintable()}
    parent = propagate.extract(carrier, context=Context())
    producer = trace.get_current_span(parent).get_span_context()
    if producer.is_valid:
        log.info("extracted traceparent 00-%032x-%016x-%02x", producer.trace_id, producer.span_id, producer.trace_flags)
    return parent


def _flatten_attrs(message_attributes: Any) -> dict[str, str]:
    """Return {lower-case name: value} of the attributes that have a string value; any other shape is left out.

    Lambda: {"traceparent": {"stringValue": "00-...", "dataType": "String"}}; the SQS API spells it "StringValue".
    """
    if not isinstance(message_attributes, dict):
        return {}
    return {
        name.lower(): value
        for name, attribute in message_attributes.items()
        if isinstance(attribute, dict)
        and isinstance(value := attribute.get("stringValue") or attribute.get("StringValue"), str)
    }
