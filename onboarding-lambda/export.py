"""Bounded, retaining export of spans by OTLP/gRPC, for a process that may be frozen after every flush.

RetainingSpanProcessor.flush(timeout)
- ends within timeout, plus MIN_SECONDS and the encoding of one request, whatever the Collector does;
- is complete only if every span that ended since the last flush was accepted, and none is left from earlier;
- keeps what was not accepted for the next flush: up to MAX_SPANS, beyond which the oldest are dropped as `overflow`;
- drops alone a span that can never be sent: `oversized` (over MAX_REQUEST_BYTES, or more than the receiver takes),
  `unencodable`, `invalid` (INVALID_ARGUMENT) or `rejected` (partial success);
- after a failure attempts no export for COOL_DOWN_SECONDS, so that an outage does not delay every invocation;
- raises nothing, whatever endpoint, headers and network are, and lets no key reach a log line.

Delivery is at least once: a request that timed out may have been received, and is sent again. Kept spans are lost when
the process ends. Nothing here is thread-safe: a sandbox has one invocation at a time, and only its thread ends spans.

The SDK's BatchSpanProcessor ignores the timeouts of a flush and of an export (opentelemetry-python #4568 and #4555),
drops a batch that was not accepted, and reports success. When a release mends that, this file can be deleted.
"""

import itertools
import logging
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import grpc
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.util.re import parse_env_headers

MIN_SECONDS = 0.1  # with less time left a request would time out, might still be received, and would be sent again
COOL_DOWN_SECONDS = 5
IDLE_SECONDS = 60  # a NAT or load balancer on the way may drop a connection that is idle for longer
MAX_SPANS = 16_384  # more than a full batch of 10,000 records makes
MAX_REQUEST_SPANS = 512
MAX_REQUEST_BYTES = 2_000_000  # Coralogix recommends at most 2 MB

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
HEADER = re.compile(r"(?!.*-bin:)[a-z0-9_.-]+:[ -~]+")  # what gRPC accepts; a name in -bin would need bytes
Code = grpc.StatusCode
# Retryable according to https://opentelemetry.io/docs/specs/otlp/#failures, and retried at once. RESOURCE_EXHAUSTED
# waits for the cool-down: that server has had too many requests.
RETRYABLE = {Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.ABORTED, Code.OUT_OF_RANGE, Code.UNAVAILABLE, Code.DATA_LOSS}
# With these codes and words receivers in Go, C++, Node, Java, .NET and Rust and HTTP proxies say that a request is too
# large. A quota that is used up has the same codes and other words. With CLIENT: our own gRPC rejects a response.
SIZE_CODES = {Code.RESOURCE_EXHAUSTED, Code.OUT_OF_RANGE, Code.UNKNOWN}
TOO_LARGE = re.compile(r"^(?!.*CLIENT: ).*(larger than max \(|message exceeds (the )?max|length too large|status: 413)")
CAUSES = {
    None: "gRPC can't use OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_HEADERS",  # its own text has the key
    Code.DEADLINE_EXCEEDED: "no response in time",
    Code.PERMISSION_DENIED: "the key in OTEL_EXPORTER_OTLP_HEADERS may not send spans",
    Code.UNAUTHENTICATED: "the key in OTEL_EXPORTER_OTLP_HEADERS is missing or wrong",
    Code.UNIMPLEMENTED: "the server at OTEL_EXPORTER_OTLP_ENDPOINT takes no OTLP/gRPC traces",
}

log = logging.getLogger("onboarding-lambda")


class ExportError(Exception):
    """The spans were not accepted this time; the message is the cause, for the log."""


class UnsendableError(Exception):
    """The spans are never accepted in one request; the message is the reason under which a dropped span is counted."""


class FlushResult(NamedTuple):
    """What a flush has done, in spans; dropped: by reason, since the last flush; cause: why spans remain, or empty."""

    accepted: int
    remaining: int
    dropped: Counter[str]
    cause: str

    @property
    def complete(self) -> bool:
        """Whether every span that ended since the last flush was accepted, and none is left from earlier."""
        return not (self.remaining or self.dropped)


class OTLPClient:
    """Sends spans by OTLP/gRPC within the time it is given, on a new connection after every failure.

    endpoint: http://host:port is plaintext, https://host:port and host:port are TLS. headers: name=value,..., values
    percent-encoded or not: https://opentelemetry.io/docs/specs/otel/protocol/exporter/
    """

    def __init__(self, endpoint: str, headers: str) -> None:
        self._endpoint = endpoint.strip() or "http://localhost:4317"
        self._headers = _parse_headers(headers)
        self._channel: grpc.Channel | None = None
        self._stub: Callable[..., ExportTraceServiceResponse] | None = None
        self._used_at = 0.0

    def export(self, spans: Sequence[ReadableSpan], deadline: float) -> int:
        """Send spans until deadline (time.monotonic()); return how many of them a partial success rejected.

        Raises ExportError, and UnsendableError when another attempt would not help.
        """
        request = _encode(spans)
        for is_retry in (False, True):
            try:
                result = self._call(request, deadline).partial_success
                break
            except (grpc.RpcError, ValueError) as error:  # ValueError: gRPC can't use the endpoint or a header
                code, details = (error.code(), error.details() or "") if isinstance(error, grpc.Call) else (None, "")
                if code is Code.INVALID_ARGUMENT:
                    raise UnsendableError("invalid") from None
                if code in SIZE_CODES and TOO_LARGE.search(details):
                    raise UnsendableError("oversized") from None
                self.disconnect()
                if is_retry or code not in RETRYABLE or deadline - time.monotonic() < MIN_SECONDS:
                    cause = CAUSES.get(code) or self._printable(details)
                    raise ExportError(f"{code.name}, {cause}" if code else cause) from None
        if result.error_message:
            log.warning("partial success: %s", self._printable(result.error_message))
        return min(max(result.rejected_spans, 0), len(spans))

    def disconnect(self) -> None:
        """Close the connection if there is one; the next request makes a new one."""
        if self._channel:
            self._channel.close()
        self._channel = self._stub = None

    def _call(self, request: bytes, deadline: float) -> ExportTraceServiceResponse:
        if time.time() - self._used_at > IDLE_SECONDS:
            self.disconnect()
        timeout = deadline - time.monotonic()
        if self._stub:
            timeout /= 2  # the connection may have died while the sandbox was frozen: leave time for a new one
        else:
            self._stub = self._connect()
        self._used_at = time.time()
        return self._stub(request, timeout=max(timeout, MIN_SECONDS), metadata=self._headers)

    def _connect(self) -> Callable[..., ExportTraceServiceResponse]:
        scheme, _, address = self._endpoint.rpartition("://")
        address = address.split("/")[0]  # gRPC would take a trailing slash for a part of the port
        options = [("grpc.use_local_subchannel_pool", 1)]  # without it a new channel would take over the old connection
        if scheme.lower() == "http":
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(), options=options)
        return self._channel.unary_unary(EXPORT, response_deserializer=ExportTraceServiceResponse.FromString)

    def _printable(self, text: str) -> str:
        """Return text from a server as one line without the words of our headers."""
        for word in {word for _, value in self._headers for word in value.split()}:
            text = text.replace(word, "***")
        return repr(text[:300])


class RetainingSpanProcessor(SpanProcessor):
    """Keeps ended spans until a flush has had them accepted; spans: those that are kept, the oldest first."""

    def __init__(self, client: OTLPClient) -> None:
        self._client = client
        self._failed_at = float("-inf")
        self._accepted, self._dropped, self._cause = 0, Counter[str](), ""
        self.spans = deque[ReadableSpan]()

    def on_end(self, span: ReadableSpan) -> None:
        """Keep an ended span, unless its trace is not sampled."""
        context = span.get_span_context()
        if not (context and context.trace_flags.sampled):
            return
        if len(self.spans) == MAX_SPANS:
            self.spans.popleft()
            self._dropped["overflow"] += 1
        self.spans.append(span)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush, as the SDK's interface spells it; return whether that is complete."""
        return self.flush(timeout_millis / 1000).complete

    def flush(self, timeout: float) -> FlushResult:
        """Send what is kept, within timeout seconds."""
        deadline = time.monotonic() + timeout
        self._accepted = 0
        # The wall clock, because a monotonic one may stand still while the sandbox is frozen; it may be set back.
        if self.spans and not 0 <= time.time() - self._failed_at < COOL_DOWN_SECONDS:
            self._cause = "the time was up"
            try:
                self._send(deadline)
            except ExportError as error:
                self._cause, self._failed_at = str(error), time.time()
        dropped, self._dropped = self._dropped, Counter()
        return FlushResult(self._accepted, len(self.spans), dropped, self._cause if self.spans else "")

    def _send(self, deadline: float) -> None:
        """Send until the deadline; halve a request that is unsendable until the span that causes it is alone."""
        size = limit = MAX_REQUEST_SPANS  # limit: no larger request until that span is dropped
        now, needed = time.monotonic(), MIN_SECONDS
        while self.spans and deadline - now >= needed:
            batch = list(itertools.islice(self.spans, size))
            try:
                rejected = self._client.export(batch, deadline)
                self._remove(len(batch), "rejected", rejected)
                size = min(2 * size, limit)
            except UnsendableError as reason:
                if len(batch) > 1:
                    size = limit = len(batch) // 2
                else:
                    self._remove(1, str(reason), 1)
                    limit = MAX_REQUEST_SPANS
            needed = max(MIN_SECONDS, 3 * (time.monotonic() - now))  # or the next request might time out
            now = time.monotonic()

    def _remove(self, count: int, reason: str, dropped: int) -> None:
        for _ in range(count):
            self.spans.popleft()
        self._accepted += count - dropped
        self._dropped += Counter({reason: dropped})  # adding leaves zeros out


class IdentityResource(Resource):
    """Hashed by identity: the encoder hashes the resource once a span, and the SDK's hash serialises it each time."""

    __hash__ = object.__hash__


def _encode(spans: Sequence[ReadableSpan]) -> bytes:
    """Return spans as a serialised ExportTraceServiceRequest; raises UnsendableError."""
    try:
        request: bytes = encode_spans(spans).SerializeToString()
    except Exception:  # whatever the encoder meets in a span
        raise UnsendableError("unencodable") from None
    if len(request) > MAX_REQUEST_BYTES:
        raise UnsendableError("oversized")
    return request


def _parse_headers(text: str) -> list[tuple[str, str]]:
    """Return name=value,... as gRPC metadata; what is malformed is left out and reported without showing the key."""
    logging.getLogger(parse_env_headers.__module__).disabled = True  # it would print what is malformed
    headers = parse_env_headers(text, liberal=True).items()
    valid = [header for header in headers if HEADER.fullmatch(":".join(header))]
    if len(valid) < len([entry for entry in text.split(",") if entry.strip()]):
        log.error("OTEL_EXPORTER_OTLP_HEADERS is not name=value,... without quotes: what is malformed was left out")
    return valid
