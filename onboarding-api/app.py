"""Customer onboarding API: accepts a customer over HTTP and queues it on SQS together with the W3C trace context."""

import json
import logging
import os
import re
import uuid
from decimal import Decimal
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from flask import Flask, abort, request
from gunicorn.http.errors import ParseException
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind
from werkzeug.exceptions import HTTPException, ServiceUnavailable
from werkzeug.wrappers import Response

ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
SIMULATIONS = ("failure", "failure_once", "slow")  # what the Lambda is to do with a smoke request
MAX_BODY = 64 * 1024  # bytes
HTTP_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
ERROR_MESSAGES: dict[int, str | None] = {  # by status; a 400 says what is wrong with the body
    404: "This is the customer onboarding API: POST JSON with a customer_id to /telemetry/smoke or /customers.",
    413: "The body may have at most 64 KiB.",
    415: "Content-Type must be application/json.",
    503: "The queue did not accept the request; try again.",
}
CONTEXT_ATTRIBUTES = ("traceparent", "tracestate", "baggage")
# A slow queue costs a caller at most two attempts of 1 s to connect and 2 s to respond, then a 503.
RETRIES = {"mode": "standard", "total_max_attempts": 2}
SQS_CONFIG = Config(connect_timeout=1, read_timeout=2, retries=RETRIES, max_pool_connections=80)  # one a thread
log = logging.getLogger("onboarding-api")
tracer = trace.get_tracer("onboarding-api")


def create_app() -> Flask:
    """Return the Flask application; reads QUEUE_URL and AWS_REGION, and raises KeyError naming a missing one."""
    logging.basicConfig(format="%(levelname)s %(message)s")
    logging.getLogger().setLevel(logging.CRITICAL)  # or a caller can have a library log a line that quotes the request
    for name in ("onboarding-api", "app", "opentelemetry.exporter", "opentelemetry.sdk"):
        logging.getLogger(name).setLevel(logging.INFO)
    queue_url = os.environ["QUEUE_URL"]
    sqs = boto3.client("sqs", region_name=os.environ["AWS_REGION"], config=SQS_CONFIG)
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY + 1  # one more: a longer chunked body is cut there without an error
    app.url_map.merge_slashes = False  # or /telemetry//smoke would be a redirect, and its span named after the raw path
    app.register_error_handler(HTTPException, _error_response)

    @app.before_request
    def name_span() -> None:
        # Auto-instrumentation names the span after the raw path, and every new span name is a new metric series.
        if request.url_rule is None or request.method == "OPTIONS":
            trace.get_current_span().update_name(request.method if request.method in HTTP_METHODS else "HTTP")

    @app.post("/telemetry/smoke")
    def smoke() -> tuple[dict[str, str], int]:
        return _accept(sqs, queue_url, "smoke")

    @app.post("/customers")
    def customers() -> tuple[dict[str, str], int]:
        return _accept(sqs, queue_url, "customers")

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def _accept(sqs: Any, queue_url: str, source: str) -> tuple[dict[str, str], int]:
    """Return the 202 response once SQS has the message, or raise the HTTPException that says why not."""
    message, body = _read_message(source)
    ids = {key: message[key] for key in ("customer_id", "request_id")}
    trace_id = trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)
    try:
        message_id = queue_for_processing(sqs, queue_url, body)
    except Exception as error:  # botocore raises more than its own; what it says may quote the message, so not logged
        cause = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
        log.error("SQS did not accept request_id=%s trace_id=%s: %r", ids["request_id"], trace_id, cause)
        raise ServiceUnavailable(retry_after=5) from error
    return {"status": "queued", **ids, "message_id": message_id, "trace_id": trace_id}, 202


def _read_message(source: str) -> tuple[dict[str, Any], str]:
    """Return the request's JSON object, with our request_id and source, as dict and text; aborts with 400, 413, 415."""
    if request.mimetype != "application/json":
        abort(415)
    try:
        if len(received := request.get_data()) > MAX_BODY:
            abort(413)
        message = json.loads(received.decode(), parse_float=_exact_float)
        _validate(message, source)
        message |= {"request_id": str(uuid.uuid4()), "source": source}
        return message, json.dumps(message, allow_nan=False)
    except ParseException:  # gunicorn's; it reads chunks only now, when they are asked for
        abort(400, "The body is not valid chunked encoding.")
    except (ValueError, ArithmeticError, RecursionError):  # also NaN, an exponent or nesting beyond Python's limits
        abort(400, "The body is not valid JSON.")


def _exact_float(text: str) -> float:
    """Return the number; aborts with 400 when the float is another one, as of 9007199254740993.0 or 1e400."""
    if Decimal(repr(number := float(text))) != Decimal(text):
        abort(400, "A number is out of the range or precision of a 64-bit float; send it as a string.")
    return number


def _validate(message: Any, source: str) -> None:
    """Abort with 400 unless it is a message that the Lambda can process."""
    if not isinstance(message, dict):
        abort(400, "The body must be a JSON object.")
    customer_id = message.get("customer_id")
    if not (isinstance(customer_id, str) and ID.fullmatch(customer_id)):
        abort(400, "customer_id must be a string of 1 to 64 characters out of A-Z, a-z, 0-9, _ and -.")
    if "simulate" in message and (source != "smoke" or message["simulate"] not in SIMULATIONS):
        abort(400, f"simulate is for /telemetry/smoke only, and one of {', '.join(SIMULATIONS)}.")


def queue_for_processing(sqs: Any, queue_url: str, body: str) -> str:
    """Send body (JSON) with the trace context as MessageAttributes; return its MessageId, or raise as boto3 does."""
    described = {
        "messaging.system": "aws.sqs",
        "messaging.destination.name": queue_url.rsplit("/", 1)[-1],
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
    }
    with tracer.start_as_current_span("sqs.send", kind=SpanKind.PRODUCER, attributes=described) as span:
        # Inside the span: outside it, the consumer would become a child of the HTTP request instead of the send.
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        context = {key: carrier[key] for key in CONTEXT_ATTRIBUTES if carrier.get(key)}  # SQS rejects empty values
        attributes = {key: {"DataType": "String", "StringValue": value} for key, value in context.items()}
        response = sqs.send_message(QueueUrl=queue_url, MessageBody=body, MessageAttributes=attributes)
        if not (isinstance(message_id := response.get("MessageId"), str) and ID.fullmatch(message_id)):
            raise LookupError("SQS responded without a MessageId")
        span.set_attribute("messaging.message.id", message_id)
        trace_id = trace.format_trace_id(span.get_span_context().trace_id)
        log.info("PRODUCER trace_id=%s message_id=%s", trace_id, message_id)
        return message_id


def _error_response(error: HTTPException) -> Response:
    """Return any HTTP error as {"error": message}, with the headers (Allow, Retry-After) that belong to it."""
    response = error.get_response()
    response.data = json.dumps({"error": ERROR_MESSAGES.get(error.code or 500, error.description)}) + "\n"
    response.content_type = "application/json"
    return response
