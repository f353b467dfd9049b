"""Spans by the thousand, straight to the Collector, as a broken or hostile sender would send them.

Wire format: https://opentelemetry.io/docs/specs/otlp/#otlpgrpc
"""

import os
import threading
import time
from dataclasses import dataclass, field

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
REQUEST_SPANS = 500
ATTRIBUTES = {f"attribute.number.{number}": "x" * 10 for number in range(14)}  # as many as the API's spans have


@dataclass
class Flood:
    """Spans that were sent: how many the Collector accepted, and how many it rejected."""

    accepted: int = 0
    rejected: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def send(port, flood, until, name, method):
    """Send requests over a connection of our own while until() is true, and count their spans in flood."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        export = channel.unary_unary(EXPORT)
        while until():
            try:
                export(request(name, method), timeout=60)
                accepted, rejected = REQUEST_SPANS, 0
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise  # it would be ambiguous
                accepted, rejected = 0, REQUEST_SPANS
            with flood.lock:
                flood.accepted += accepted
                flood.rejected += rejected


def request(name, method, attributes=ATTRIBUTES, **resource):
    """Return a serialized request; name() and method() are called for every span, resource is what it has besides."""
    message, now = ExportTraceServiceRequest(), time.time_ns()
    spans = message.resource_spans.add()
    for key, value in {"service.name": "drill", **resource}.items():
        _set(spans.resource, key, value)
    spans = spans.scope_spans.add().spans
    for _ in range(REQUEST_SPANS):
        span = spans.add(trace_id=os.urandom(16), span_id=os.urandom(8), name=name(), kind=2)
        span.start_time_unix_nano, span.end_time_unix_nano = now, now + 1_000_000
        _set(span, "http.method", method())
        for key, value in attributes.items():
            _set(span, key, value)
    return message.SerializeToString()


def _set(owner, key, value):
    owner.attributes.add(key=key).value.string_value = value
