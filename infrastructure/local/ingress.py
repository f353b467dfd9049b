"""Stand-in for the Coralogix ingress: an OTLP/gRPC server with TLS that demands the key and keeps what it gets.

Wire format: https://opentelemetry.io/docs/specs/otlp/#otlpgrpc
"""

import collections
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc
import trustme
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1 import trace_pb2


class Span(NamedTuple):
    """One received span: ids in hex, times in nanoseconds, attributes as plain dicts."""

    name: str
    kind: str
    service: str
    trace_id: str
    span_id: str
    parent_span_id: str
    start: int
    end: int
    status: str
    status_message: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    links: list[tuple[str, str]]
    events: list[tuple[str, dict[str, Any]]]


class Point(NamedTuple):
    """One received data point: value is a number for a counter and the OTLP data point for a histogram."""

    name: str
    unit: str
    temporality: int
    resource: dict[str, Any]
    attributes: dict[str, Any]
    value: Any


class Ingress:
    """The server, as a context manager; what it received is in spans() and points(), and received counts the spans.

    key: the Send-Your-Data key to demand; host_name: what the certificate is for; ca_file: where its CA is written;
    address: where it listens.
    The attribute responder is None to accept, or a callable that gets the grpc context and the request's spans (none
    when it brings metrics), may wait or abort, and returns the spans to accept: a partial success when they are fewer.
    """

    responder: Callable[[grpc.ServicerContext, Sequence[Span]], Sequence[Span]] | None = None

    def __init__(
        self,
        port: int,
        key: str,
        host_name: str,
        ca_file: str | Path,
        max_spans: int = 200_000,
        address: str = "127.0.0.1",
    ) -> None:
        self._key = key
        self.received = 0
        self._spans: collections.deque[Span] = collections.deque(maxlen=max_spans)
        self._points: dict[tuple[str, ...], Point] = {}
        self._lock = threading.Lock()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(ca_file)
        identity = authority.issue_cert(host_name, "127.0.0.1")
        chain = b"".join(pem.bytes() for pem in identity.cert_chain_pems)
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Traces(self), self._server)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Metrics(self), self._server)
        credentials = grpc.ssl_server_credentials([(identity.private_key_pem.bytes(), chain)])
        self._server.add_secure_port(f"{address}:{port}", credentials)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=1).wait()

    def spans(self) -> list[Span]:
        """Return the spans received, oldest first."""
        with self._lock:
            return list(self._spans)

    def points(self) -> list[Point]:
        """Return the newest data point of every series."""
        with self._lock:
            return list(self._points.values())

    def forget(self) -> None:
        """Drop what was received so far."""
        with self._lock:
            self._spans.clear()
            self._points.clear()

    def admit(self, context: grpc.ServicerContext, spans: Sequence[Span] = ()) -> Sequence[Span]:
        """Reject a request without the key, or as responder does; return the spans to accept."""
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {self._key}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the Send-Your-Data key is missing or wrong")
        return self.responder(context, spans) if self.responder else spans

    def keep_spans(self, spans: Sequence[Span]) -> None:
        """Keep spans, in place of the oldest when there are too many."""
        with self._lock:
            self._spans.extend(spans)
            self.received += len(spans)

    def keep_points(self, points: Iterable[Point]) -> None:
        """Keep points, each in place of the one before it in its series."""
        with self._lock:
            for point in points:
                series = (point.name, *sorted(map(str, (point.attributes | point.resource).items())))
                self._points[series] = point


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        spans = []
        for resource_spans in request.resource_spans:
            resource = _plain(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                spans += [_span(span, resource) for span in scope_spans.spans]
        accepted = self._ingress.admit(context, spans)
        self._ingress.keep_spans(accepted)
        response = trace_service_pb2.ExportTraceServiceResponse()
        if rejected := len(spans) - len(accepted):
            response.partial_success.rejected_spans = rejected
            response.partial_success.error_message = "some spans were not accepted"
        return response


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress

    def Export(
        self, request: metrics_service_pb2.ExportMetricsServiceRequest, context: grpc.ServicerContext
    ) -> metrics_service_pb2.ExportMetricsServiceResponse:
        self._ingress.admit(context)
        for resource_metrics in request.resource_metrics:
            resource = _plain(resource_metrics.resource.attributes)
            for scope_metrics in resource_metrics.scope_metrics:
                for metric in scope_metrics.metrics:
                    self._ingress.keep_points(_points(metric, resource))
        return metrics_service_pb2.ExportMetricsServiceResponse()


def _plain(attributes: Iterable[common_pb2.KeyValue]) -> dict[str, Any]:
    return {item.key: _value(item.value) for item in attributes}


def _value(value: common_pb2.AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None


def _span(span: trace_pb2.Span, resource: dict[str, Any]) -> Span:
    return Span(
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        service=resource.get("service.name", ""),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        status=trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        status_message=span.status.message,
        attributes=_plain(span.attributes),
        resource=resource,
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        events=[(event.name, _plain(event.attributes)) for event in span.events],
    )


def _points(metric: metrics_pb2.Metric, resource: dict[str, Any]) -> Iterator[Point]:
    kind = metric.WhichOneof("data")
    series = getattr(metric, str(kind))
    for point in series.data_points:
        value = point if kind == "histogram" else getattr(point, point.WhichOneof("value"))
        yield Point(metric.name, metric.unit, series.aggregation_temporality, resource, _plain(point.attributes), value)
