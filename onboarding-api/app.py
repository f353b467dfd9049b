"""Customer onboarding API: accepts a customer over HTTP and queues it on SQS together with the W3C trace context."""

import json
import logging
import os
import re
import uuid

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from flask import Flask, abort, request
from gunicorn.http.errors import ParseException
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, ServiceUnavailable

CUSTOMER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
SIMULATIONS = ("failure", "failure_once", "slow")  # what the Lambda is to do with a smoke request
MAX_BODY = 64 * 1024  # bytes
HTTP_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
SENTENCES = {404: "There is no such path.", 413: "The body may have at most 64 KiB."}
CONTEXT_ATTRIBUTES = ("traceparent", "tracestate", "baggage")
# A slow queue costs a caller at most two attempts of 1 s to connect and 2 s to answer, then a 503.
SQS_CONFIG = Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 2})

log = logging.getLogger("onboarding-api")
tracer = trace.get_tracer("onboarding-api")


def create_app():
    """Return the Flask application; reads QUEUE_URL and AWS_REGION, and raises KeyError naming a missing one."""
    logging.basicConfig(format="%(levelname)s %(message)s")
    log.setLevel(logging.INFO)
    queue_url = os.environ["QUEUE_URL"]
    sqs = boto3.client("sqs", region_name=os.environ["AWS_REGION"], config=SQS_CONFIG)
    app = Flask(__name__)
    # One more than allowed: a chunked body is cut at this length without an error, so that only the extra byte tells.
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY + 1
    app.url_map.merge_slashes = False  # or /telemetry//smoke would be a redirect, and its span named after the raw path
    app.register_error_handler(HTTPException, _error_answer)

    @app.post("/telemetry/smoke")
    def smoke():
        return _accept(sqs, queue_url, "smoke")

    @app.post("/customers")
    def customers():
        return _accept(sqs, queue_url, "customers")

    @app.get("/health")
    def health():
        return {"status": "ok"}

    return app


def _accept(sqs, queue_url, source):
    """Return the 202 answer once SQS has the message, or raise the HTTPException that says why not."""
    message, body = _read_message(source)
    trace_id = trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)
    try:
        message_id = queue_for_processing(sqs, queue_url, body)
    except (BotoCoreError, ClientError, LookupError) as error:
        log.error("SQS did not take request_id=%s trace_id=%s: %r", message["request_id"], trace_id, error)
        raise ServiceUnavailable("The queue did not accept the request; try again.", retry_after=5) from error
    answer = {key: message[key] for key in ("customer_id", "request_id")}
    return {"status": "queued", **answer, "message_id": message_id, "trace_id": trace_id}, 202


def _read_message(source):
    """Return the request's JSON object, with our request_id and source, as dict and text; aborts with 400, 413, 415."""
    if request.mimetype != "application/json":
        abort(415, "Content-Type must be application/json.")
    try:
        received = request.get_data()
        if len(received) > MAX_BODY:
            raise RequestEntityTooLarge
        message = json.loads(received.decode())
        if not isinstance(message, dict):
            abort(400, "The body must be a JSON object.")
        message |= {"request_id": str(uuid.uuid4()), "source": source}
        body = json.dumps(message, allow_nan=False)
    except ParseException:  # gunicorn's; it reads chunks only now, when they are asked for
        abort(400, "The body is not valid chunked encoding.")
    except (ValueError, RecursionError):  # also invalid UTF-8, NaN, and brackets nested by the thousand
        abort(400, "The body is not valid JSON.")
    customer_id = message.get("customer_id")
    if not (isinstance(customer_id, str) and CUSTOMER_ID.fullmatch(customer_id)):
        abort(400, "customer_id must be a string of 1 to 64 characters out of A-Z, a-z, 0-9, _ and -.")
    if "simulate" in message and (source != "smoke" or message["simulate"] not in SIMULATIONS):
        abort(400, f"simulate is for /telemetry/smoke only, and one of {', '.join(SIMULATIONS)}.")
    return message, body


def queue_for_processing(sqs, queue_url, body):
    """Send body (JSON text) with the trace context as MessageAttributes; return SQS's MessageId.

    Raises botocore's BotoCoreError or ClientError when SQS fails, LookupError when its answer has no MessageId.
    """
    with tracer.start_as_current_span("sqs.send", kind=SpanKind.PRODUCER) as span:
        span.set_attribute("messaging.system", "aws.sqs")
        span.set_attribute("messaging.destination.name", queue_url.rsplit("/", 1)[-1])
        span.set_attribute("messaging.operation.name", "send")
        span.set_attribute("messaging.operation.type", "send")
        # Inside the span: outside it, the consumer would become a child of the HTTP request instead of the send.
        carrier = {}
        propagate.inject(carrier)
        attributes = {
            key: {"DataType": "String", "StringValue": carrier[key]}
            for key in CONTEXT_ATTRIBUTES
            if carrier.get(key)  # SQS rejects the whole message for one empty StringValue
        }
        answer = sqs.send_message(QueueUrl=queue_url, MessageBody=body, MessageAttributes=attributes)
        if not (message_id := answer.get("MessageId")):
            raise LookupError("SQS answered without a MessageId")
        span.set_attribute("messaging.message.id", message_id)
        trace_id = trace.format_trace_id(span.get_span_context().trace_id)
        log.info("PRODUCER trace_id=%s message_id=%s", trace_id, message_id)
        return message_id


def _error_answer(error):
    """Return any HTTP error as {"error": sentence}, with the headers (Allow, Retry-After) that belong to it."""
    if request.url_rule is None:
        # The agent names the span after the raw path, and every new span name is a new metric series.
        trace.get_current_span().update_name(request.method if request.method in HTTP_METHODS else "HTTP")
    answer = error.get_response()
    answer.data = json.dumps({"error": SENTENCES.get(error.code, error.description)}) + "\n"
    answer.content_type = "application/json"
    return answer
