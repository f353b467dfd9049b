"""What the variants report to: sinks.py HTTP_PORT OTLP_PORT XRAY_PORT CA_FILE.

OTLP_PORT plays the Coralogix ingress behind the Collector: OTLP/gRPC with TLS. XRAY_PORT is the X-Ray daemon (UDP). On
HTTP_PORT stand in for elastic's APM server, Datadog's agent and Sentry. GET /counts tells what arrived, as JSON:
{service or protocol: {"roots": requests or invocations, "names": {span: how many}, "bytes": ...}}. GET /forget
starts anew; after GET /parse/off OTLP requests are only counted in bytes.
"""

import collections
import gzip
import json
import socket
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import msgpack
import trustme
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

HOST_NAME = "ingress.coralogix.invalid"
GREETING = b'{"version": "8.19.0", "endpoints": ["/v0.4/traces"]}'  # what elastic's agent and Datadog's ask first


class _Counts:
    """What arrived; thread-safe."""

    def __init__(self):
        self._lock = threading.Lock()
        self.parse = True
        self.forget()

    def forget(self):
        self._found = collections.defaultdict(
            lambda: {"roots": 0, "names": collections.Counter(), "bytes": 0, "requests": 0}
        )

    def add(self, reporter, names=(), roots=0, size=0):
        with self._lock:
            found = self._found[reporter]
            found["names"].update(names)
            found["roots"] += roots
            found["bytes"] += size
            found["requests"] += 1

    def json(self):
        with self._lock:
            return json.dumps(self._found).encode()


class _Otlp(grpc.GenericRpcHandler):
    """Takes traces and metrics; an empty message is a success of either."""

    def __init__(self, counts):
        self._counts = counts

    def service(self, details):
        take = self._traces if details.method.endswith("TraceService/Export") else self._metrics
        return grpc.unary_unary_rpc_method_handler(take)

    def _metrics(self, request, context):
        self._counts.add("metrics", size=len(request))
        return b""

    def _traces(self, request, context):
        self._counts.add("traces", size=len(request))
        for part in ExportTraceServiceRequest.FromString(request).resource_spans if self._counts.parse else ():
            resource = {item.key: item.value.string_value for item in part.resource.attributes}
            spans = [span for scope in part.scope_spans for span in scope.spans]
            roots = sum(span.kind == span.SPAN_KIND_SERVER for span in spans)
            service = resource["service.name"].split(":")[0]
            self._counts.add(service, [span.name for span in spans], roots, part.ByteSize())
        return b""


def xray(counts, port):
    """Receive segments: one line of JSON that says it is JSON, one of JSON.

    https://docs.aws.amazon.com/xray/latest/devguide/xray-api-sendingdata.html
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**23)
    listener.bind(("127.0.0.1", port))
    while True:
        packet = listener.recv(65536)
        segment = json.loads(packet.partition(b"\n")[2])
        names = list(segment_names(segment))
        counts.add("xray", names, segment.get("type") != "subsegment", len(packet))


def segment_names(segment):
    """Return the names of a segment and all below it."""
    yield segment["name"]
    for inner in segment.get("subsegments", ()):
        yield from segment_names(inner)


def elastic(counts, body):
    """Count what the lines to elastic's APM server hold.

    https://www.elastic.co/docs/solutions/observability/apm/elastic-apm-events-intake-api
    """
    events = [json.loads(line) for line in body.splitlines() if line]
    found = [event[kind] for event in events for kind in ("transaction", "span") if kind in event]
    counts.add("elastic", [item["name"] for item in found], sum("transaction" in event for event in events), len(body))


def datadog(counts, body, version):
    """Count spans.

    https://docs.datadoghq.com/tracing/guide/send_traces_to_agent_by_api/
    """
    content = msgpack.unpackb(body, strict_map_key=False)
    if version == "v0.5":
        texts, traces = content
        spans = [(texts[span[1]], span[5]) for trace in traces for span in trace]
    else:
        spans = [(span["name"], span.get("parent_id")) for trace in content for span in trace]
    counts.add("datadog", [name for name, _ in spans], sum(not parent for _, parent in spans), len(body))


def sentry(counts, body):
    """Count what an envelope's items hold.

    https://develop.sentry.dev/sdk/foundations/transport/envelopes/
    """
    lines = iter(body.split(b"\n")[1:])
    for line in lines:
        if line and json.loads(line).get("type") == "transaction":
            transaction = json.loads(next(lines))
            names = [span.get("description") or span["op"] for span in transaction["spans"]]
            counts.add("sentry", [transaction["transaction"], *names], 1, len(body))


class _Http(BaseHTTPRequestHandler):
    """Everything that comes over HTTP, on connections that stay open."""

    protocol_version = "HTTP/1.1"
    counts = None

    def do_GET(self):
        if self.path == "/forget":
            self.counts.forget()
        elif self.path.startswith("/parse/"):
            self.counts.parse = self.path.endswith("on")
        self._respond(self.counts.json() if self.path == "/counts" else GREETING)

    def do_POST(self):
        body = self._body()
        if self.path.startswith("/intake/v2/events"):
            elastic(self.counts, body)
        elif self.path.endswith("/traces"):
            datadog(self.counts, body, self.path.split("/")[1])
        elif self.path.endswith("/envelope/"):
            sentry(self.counts, body)
        self._respond(b"{}", 202 if "intake" in self.path else 200)

    do_HEAD, do_PUT = do_GET, do_POST

    def _body(self):
        body = self._chunks() if self.headers.get("transfer-encoding") else None
        body = self.rfile.read(int(self.headers.get("content-length", 0))) if body is None else body
        unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(self.headers.get("content-encoding"), bytes)
        return unpack(body)

    def _chunks(self):
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _respond(self, content, status=200):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        """Say nothing."""


def main(http_port, otlp_port, xray_port, ca_file):
    """Serve until the process is ended."""
    counts = _Http.counts = _Counts()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(ca_file)
    identity = authority.issue_cert(HOST_NAME)
    chain = b"".join(pem.bytes() for pem in identity.cert_chain_pems)
    server = grpc.server(ThreadPoolExecutor(4), [_Otlp(counts)])
    credentials = grpc.ssl_server_credentials([(identity.private_key_pem.bytes(), chain)])
    server.add_secure_port(f"127.0.0.1:{otlp_port}", credentials)
    server.start()
    threading.Thread(target=xray, args=(counts, int(xray_port)), daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", int(http_port)), _Http).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
