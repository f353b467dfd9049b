"""The Lambda's OpenTelemetry SDK, set up by hand when the module loads, and a flush that keeps its promise.

The SDK's own flush ignores its timeout, drops what was not accepted and answers True all the same. This one
- ends within its timeout, plus MIN_SECONDS and the encoding of one request, whatever the Collector does, and leaves the
  invocation MARGIN_MILLIS; after a failure none is tried for COOL_DOWN_SECONDS, so that an outage costs one timeout;
- answers True only if every span that ended since the flush before was accepted, and none is left from earlier;
- keeps what was not accepted for the next one, up to MAX_SPANS, then drops the oldest, counted as `overflow`;
- drops a span that can never be sent alone, counted as `oversized` (over MAX_REQUEST_BYTES), `unencodable`, `invalid`
  (INVALID_ARGUMENT) or `rejected` (partial success);
- lets nothing in endpoint, headers or network fail an import or an invocation, and no key reach a log line.

Delivery is at least once: a request that timed out may have arrived, and is sent again. What is kept dies with the
sandbox. Nothing here is thread-safe, because a sandbox has one invocation at a time and only its thread ends spans.
"""

import itertools
import logging
import os
import re
import time
from collections import Counter, deque

import grpc
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.util.re import parse_env_headers

FLUSH_MILLIS = 2000
MARGIN_MILLIS = 500
MIN_SECONDS = 0.1  # no request starts with less time, for it would be cut off and arrive twice
COOL_DOWN_SECONDS = 5
IDLE_SECONDS = 60  # what lies between may forget a connection that is unused for longer
MAX_SPANS = 16_384  # more than a full batch of 10,000 records makes
MAX_REQUEST_SPANS = 512
MAX_REQUEST_BYTES = 2_000_000  # Coralogix recommends at most 2 MB
# One link per record of a batch, where the SDK would keep the last 128; and no attribute that fills a request.
LIMITS = SpanLimits(max_links=10_000, max_attribute_length=4096, max_span_attribute_length=4096)

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
HEADER = re.compile(r"(?!.*-bin:)[a-z0-9_.-]+:[ -~]+")  # what gRPC takes; names in -bin would need bytes
Code = grpc.StatusCode
# What may be sent again according to https://opentelemetry.io/docs/specs/otlp/#failures, and at once.
# RESOURCE_EXHAUSTED is left to the cool-down: more requests are what that server can't take.
RETRYABLE = {Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.ABORTED, Code.OUT_OF_RANGE, Code.UNAVAILABLE, Code.DATA_LOSS}
CAUSES = {
    None: "gRPC can't use OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_HEADERS",  # its own text has the key
    Code.DEADLINE_EXCEEDED: "no answer in time",
    Code.PERMISSION_DENIED: "the key in OTEL_EXPORTER_OTLP_HEADERS may not send spans",
    Code.UNAUTHENTICATED: "the key in OTEL_EXPORTER_OTLP_HEADERS is missing or wrong",
    Code.UNIMPLEMENTED: "what answers at OTEL_EXPORTER_OTLP_ENDPOINT takes no OTLP/gRPC traces",
}

log = logging.getLogger("onboarding-lambda")
_invocations = itertools.count()


class ExportError(Exception):
    """The spans were not accepted this time; the message is a cause for the log."""


class UnsendableError(Exception):
    """The spans can never be accepted in one request; the message is the reason that counts a single one."""


class DeadlineExporter:
    """Sends spans by OTLP/gRPC within the time it is given, on a new connection after every failure.

    endpoint: http://host:port is plaintext, https://host:port and host:port are TLS. headers: name=value,..., values
    percent-encoded or not: https://opentelemetry.io/docs/specs/otel/protocol/exporter/
    """

    def __init__(self, endpoint, headers):
        self._endpoint = endpoint.strip() or "http://localhost:4317"
        self._headers = _parse_headers(headers)
        self._channel = self._stub = None  # None, or one that has answered
        self._used_at = 0.0

    def export(self, spans, deadline):
        """Send spans until deadline (time.monotonic()); return how many of them a partial success rejected.

        Raises ExportError, and UnsendableError when another time would not help.
        """
        request = _encode(spans)
        for is_retry in (False, True):
            try:
                result = self._call(request, deadline).partial_success
                break
            except (grpc.RpcError, ValueError) as error:  # ValueError: gRPC can't use the endpoint or a header
                code = error.code() if isinstance(error, grpc.RpcError) else None
                if code is Code.INVALID_ARGUMENT:
                    raise UnsendableError("invalid") from None
                self._disconnect()
                if is_retry or code not in RETRYABLE or deadline - time.monotonic() < MIN_SECONDS:
                    cause = CAUSES.get(code) or self._printable(error.details() or "")
                    raise ExportError(f"{code.name}, {cause}" if code else cause) from None
        if result.error_message:
            log.warning("partial success: %s", self._printable(result.error_message))
        return min(max(result.rejected_spans, 0), len(spans))

    def _call(self, request, deadline):
        if time.time() - self._used_at > IDLE_SECONDS:
            self._disconnect()
        timeout = deadline - time.monotonic()
        if self._channel:
            timeout /= 2  # the connection may have died while the sandbox was frozen: leave time for a new one
        else:
            self._connect()
        self._used_at = time.time()
        return self._stub(request, max(timeout, MIN_SECONDS), self._headers)

    def _connect(self):
        scheme, _, address = self._endpoint.rpartition("://")
        address = address.split("/")[0]  # gRPC would take a trailing slash for a part of the port
        options = [("grpc.use_local_subchannel_pool", 1)]  # a new channel is to have a new connection, too
        if scheme.lower() == "http":
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(), options)
        self._stub = self._channel.unary_unary(EXPORT, None, ExportTraceServiceResponse.FromString)

    def _disconnect(self):
        if self._channel:
            self._channel.close()
        self._channel = None

    def _printable(self, text):
        """Return text from a server as one line without the words of our headers."""
        for word in {word for _, value in self._headers for word in value.split()}:
            text = text.replace(word, "***")
        return repr(text[:300])


class RetainingSpanProcessor(SpanProcessor):
    """Keeps ended spans until a flush has had them accepted.

    spans: those kept, the oldest first. Of the last flush: accepted, how many it sent; dropped, Counter by reason of
    those lost since the flush before; cause, why spans remain.
    """

    def __init__(self, exporter):
        self._exporter = exporter
        self._failed_at = float("-inf")
        self._dropping = Counter()
        self.spans = deque()
        self.accepted, self.dropped, self.cause = 0, Counter(), ""

    def on_end(self, span):
        """Keep an ended span, unless its trace is not sampled."""
        if not span.context.trace_flags.sampled:
            return
        if len(self.spans) == MAX_SPANS:
            self.spans.popleft()
            self._dropping["overflow"] += 1
        self.spans.append(span)

    def force_flush(self, timeout_millis=FLUSH_MILLIS):
        """Send what is kept; return whether nothing remains and nothing was dropped since the flush before."""
        deadline = time.monotonic() + timeout_millis / 1000
        self.accepted = 0
        # The wall clock, because a monotonic one may stand still while the sandbox is frozen; it may be set back.
        if self.spans and not 0 <= time.time() - self._failed_at < COOL_DOWN_SECONDS:
            self.cause = "the time was up"
            try:
                self._send(deadline)
            except ExportError as error:
                self.cause, self._failed_at = str(error), time.time()
        self.dropped, self._dropping = self._dropping, Counter()
        return not (self.spans or self.dropped)

    def _send(self, deadline):
        """Send until the time is up; halve what is unsendable until the culprit is alone, and go on without it."""
        size = limit = MAX_REQUEST_SPANS  # limit: no larger request until the culprit is gone
        now, needed = time.monotonic(), MIN_SECONDS
        while self.spans and deadline - now >= needed:
            batch = list(itertools.islice(self.spans, size))
            try:
                rejected = self._exporter.export(batch, deadline)
                self._remove(len(batch), "rejected", rejected)
                size = min(2 * size, limit)
            except UnsendableError as reason:
                if len(batch) > 1:
                    size = limit = len(batch) // 2
                else:
                    self._remove(1, str(reason), 1)
                    limit = MAX_REQUEST_SPANS
            needed = max(MIN_SECONDS, 3 * (time.monotonic() - now))  # or the next one might be cut off
            now = time.monotonic()

    def _remove(self, count, reason, dropped):
        for _ in range(count):
            self.spans.popleft()
        self.accepted += count - dropped
        self._dropping += Counter({reason: dropped})  # adding leaves zeros out


def flush(context=None):
    """Send every ended span, log whether that is complete, and leave the rest for the next flush.

    context: the Lambda context object, whose remaining time bounds the flush.
    """
    budget = FLUSH_MILLIS
    if context:
        budget = min(budget, context.get_remaining_time_in_millis() - MARGIN_MILLIS)
    # At least 10, because the provider asks none of its processors when no time is left.
    if provider.force_flush(max(budget, 10)):
        log.info("Flush complete accepted=%s", _processor.accepted)
        return
    remaining = len(_processor.spans)
    dropped = ",".join(f"{reason}:{count}" for reason, count in _processor.dropped.items()) or "none"
    cause = _processor.cause if remaining else "none"
    counts = (_processor.accepted, remaining, dropped, cause)
    log.warning("Flush incomplete accepted=%s remaining=%s dropped=%s cause=%s", *counts)


def invocation_attributes(context):
    """Return the attributes of one invocation; context is the Lambda context object."""
    return {
        "faas.invocation_id": context.aws_request_id,
        "faas.trigger": "pubsub",
        "faas.coldstart": next(_invocations) == 0,
    }


def _encode(spans):
    """Return spans as a serialized ExportTraceServiceRequest; raises UnsendableError."""
    try:
        request = encode_spans(spans).SerializeToString()
    except Exception:  # whatever the encoder meets in a span
        raise UnsendableError("unencodable") from None
    if len(request) > MAX_REQUEST_BYTES:
        raise UnsendableError("oversized")
    return request


def _parse_headers(text):
    """Return name=value,... as gRPC metadata; a malformed one is left out, and said so without showing the key."""
    logging.getLogger(parse_env_headers.__module__).disabled = True  # it would print what is malformed
    headers = parse_env_headers(text, liberal=True).items()
    valid = [header for header in headers if HEADER.fullmatch(":".join(header))]
    if len(valid) < len([entry for entry in text.split(",") if entry.strip()]):
        log.error("OTEL_EXPORTER_OTLP_HEADERS is not name=value,... without quotes: what is malformed was left out")
    return valid


class _Resource(Resource):
    """Hashed by identity: the encoder looks it up for every span, and the stock hash writes it as JSON each time."""

    __hash__ = object.__hash__


def _resource():
    """Return the resource: OTEL_RESOURCE_ATTRIBUTES, then the function's own variables, then what Lambda says."""
    resource = Resource.create(
        {
            "service.name": os.environ["SERVICE_NAME"],
            "service.namespace": os.environ["SERVICE_NAMESPACE"],
            "cx.application.name": os.environ["CX_APPLICATION"],
            "cx.subsystem.name": os.environ["CX_SUBSYSTEM"],
            "cloud.provider": "aws",
            "cloud.platform": "aws_lambda",
            "cloud.region": os.environ["AWS_REGION"],
            "faas.name": os.environ["AWS_LAMBDA_FUNCTION_NAME"],
            "faas.version": os.environ["AWS_LAMBDA_FUNCTION_VERSION"],
            "faas.instance": os.environ["AWS_LAMBDA_LOG_STREAM_NAME"],
            "faas.max_memory": int(os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]) * 1024 * 1024,
        }
    )
    return _Resource(resource.attributes, resource.schema_url)


_exporter = DeadlineExporter(
    os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""), os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")
)
_processor = RetainingSpanProcessor(_exporter)
provider = TracerProvider(resource=_resource(), span_limits=LIMITS)
provider.add_span_processor(_processor)
trace.set_tracer_provider(provider)
