"""What a span costs the Collector: CPU, memory, and bytes on the way to Coralogix."""

import contextlib
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import psutil
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import function
import shipped
from api import OURS, Running, variants
from flood import EXPORT
from measure import cpu_seconds, difference, mean, ratio, rotated
from parts import QUIET_SECONDS
from programs.driver import SMOKE, in_a_loop
from stack import STAND_IN, Child, free_port, poll_until

PASS_THROUGH, STANDARD, BOTH = "pass-through", "with span metrics", "with both sets of span metrics, as shipped"
CONNECTORS = {PASS_THROUGH: [], STANDARD: ["span_metrics"], BOTH: ["span_metrics", "span_metrics/compact"]}
REQUEST_SPANS = 500  # spans in a request to the Collector: a busy API sends up to 512
REQUESTS = 840  # whose real spans are sent: they fill the largest batch without one of them twice
PER_SECOND = 20_000  # spans, for the memory


def run(parts, quick):
    """Return the section: rows of the table, and notes."""
    rounds, spans, seconds = (5, 20_000, 5) if quick else (8, 60_000, 20)
    templates = real_spans(parts)
    parts.ask_sinks("parse/off")
    requests = make_requests(templates, REQUEST_SPANS, 24)
    measured = [one_round(parts, turn, requests, spans) for turn in range(rounds)]
    attack = make_requests(templates, REQUEST_SPANS, PER_SECOND * seconds // REQUEST_SPANS, hostile)
    loads = {"at rest": [], f"at {PER_SECOND} spans/s": requests, "under a cardinality attack": attack}
    return {
        "title": "Collector: CPU per span, as a ratio to one that only passes spans on",
        "rows": [row(name, measured) for name in CONNECTORS],
        "notes": [
            f"requests of {REQUEST_SPANS} spans, as API and function export them; {spans} spans a round",
            *memory(parts, loads, seconds, templates),
        ],
        "rounds": rounds,
    }


class Capture(grpc.GenericRpcHandler):
    """A Collector that only keeps what it gets; a context manager."""

    def __init__(self):
        self.port, self.requests = free_port(), []
        self._server = grpc.server(ThreadPoolExecutor(2), [self])

    def service(self, details):
        """Return what handles any call."""
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.requests.append(request) or b"")

    def __enter__(self):
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop(0).wait()


def real_spans(parts):
    """Return [spans of the API for REQUESTS requests, spans of the function for as many records], in their order."""
    with Capture() as capture:
        endpoint = f"http://127.0.0.1:{capture.port}"
        ours = variants(parts, capture.port)[OURS]
        api = Running(
            "api", ours._replace(variables=ours.variables | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}), parts.run_dir
        )
        invoked = function.worker(parts, "function", function.VARIANTS[function.OURS], endpoint)
        try:
            api.child.start()
            in_a_loop(api.port, SMOKE, REQUESTS)
            for _ in range(REQUESTS // 5):
                invoked.ask(5, 1)  # with ids of its own each time
            expected = REQUESTS * 3 + REQUESTS * 6 // 5

            def complete():
                found = spans_by_service(capture.requests)
                return found if sum(map(len, found.values())) == expected else None

            found = poll_until(complete, f"{expected} spans", 5 * QUIET_SECONDS)
        finally:
            invoked.stop()
            api.child.stop(signal.SIGKILL)
    return [found["onboarding-api"], found["onboarding-lambda"]]


def spans_by_service(requests):
    """Return {service: [(resource, scope, span), ...]} of serialized requests."""
    found = {}
    for request in requests:
        for part in ExportTraceServiceRequest.FromString(request).resource_spans:
            name = next(item.value.string_value for item in part.resource.attributes if item.key == "service.name")
            spans = [(part.resource, scope.scope, span) for scope in part.scope_spans for span in scope.spans]
            found.setdefault(name, []).extend(spans)
    return found


def new_ids(resource, span):
    """Give a span ids of its own, for one that is sent many times."""
    span.trace_id, span.span_id, span.parent_span_id = os.urandom(16), os.urandom(8), os.urandom(8)


def hostile(resource, span):
    """Give a span ids, a name, a method and a process that none before it had."""
    new_ids(resource, span)
    span.name = f"GET /{os.urandom(16).hex()}"
    span.attributes.add(key="http.method").value.string_value = os.urandom(8).hex()
    for item in resource.attributes:
        if item.key == "service.instance.id":
            item.value.string_value = os.urandom(16).hex()


def make_requests(templates, size, count, change=new_ids):
    """Return count serialized requests of size spans each, changed by change; three of four are the API's."""
    requests = []
    for number in range(count):
        spans = templates[number % 4 == 3]
        request, scopes = ExportTraceServiceRequest(), {}
        part = request.resource_spans.add(resource=spans[0][0])
        for place in range(size):
            _, scope, template = spans[(number * size + place) % len(spans)]
            if scope.name not in scopes:
                scopes[scope.name] = part.scope_spans.add(scope=scope)
            span = scopes[scope.name].spans.add()
            span.CopyFrom(template)
            if change:
                change(part.resource, span)
        requests.append(request.SerializeToString())
    return requests


class Collector(Child):
    """The Collector as shipped, but for addresses and, where given, its connectors, compression and batches."""

    def __init__(self, parts, name, connectors=None, exporter=None, ingress_port=None):
        self.otlp_port, self._metrics_port, health_check = free_port(), free_port(), f"127.0.0.1:{free_port()}"
        overlay = parts.run_dir / f"{name}.yaml"
        tls = {
            "ca_file": str(parts.run_dir / "ca.pem"),
            "server_name_override": f"ingress.{STAND_IN['CORALOGIX_DOMAIN']}",
        }
        address = f"127.0.0.1:{ingress_port or parts.ports.ingress}"
        reader = {"pull": {"exporter": {"prometheus": {"host": "127.0.0.1", "port": self._metrics_port}}}}
        service = {"telemetry": {"metrics": {"readers": [reader]}}}
        if connectors is not None:
            service["pipelines"] = {"traces": {"exporters": [*connectors, "otlp_grpc/coralogix"]}}
            service["pipelines"] |= {"metrics": {"receivers": connectors or ["otlp"]}}
        configuration = {
            "exporters": {"otlp_grpc/coralogix": {"endpoint": address, "tls": tls, **(exporter or {})}},
            "extensions": {"health_check": {"endpoint": health_check}},
            "service": service,
        }
        overlay.write_text(yaml.safe_dump(configuration))
        files = [shipped.ROOT / "otel/coralogix-collector.yaml", overlay]
        environment = shipped.container_environment("otel-collector", parts.variables)
        environment["OTLP_LISTEN_ADDRESS"] = f"127.0.0.1:{self.otlp_port}"
        command = [shipped.ROOT / "otel/entrypoint.sh", *(f"--config={file}" for file in files)]
        super().__init__(name, command, f"http://{health_check}", environment, parts.run_dir)

    def start(self):
        """Start it and connect to it."""
        super().start()
        self.measured = psutil.Process(self.process.pid)
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self.otlp_port}")
        self.send = self._channel.unary_unary(EXPORT)
        return self

    def stop(self, *args, **kwargs):
        """Disconnect and stop it."""
        self._channel.close()
        return super().stop(signal.SIGKILL)

    def peak_mib(self):
        """Return the most memory that was resident so far."""
        with open(f"/proc/{self.measured.pid}/status") as file:
            return int(re.search(r"VmHWM:\s+(\d+)", file.read())[1]) / 1024

    def sent(self):
        """Return how many spans it says it has sent on, and how many it refused."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=30) as response:
            text = response.read().decode()
        counts = (
            re.findall(rf"^otelcol_{name}\S* (\S+)$", text, re.MULTILINE)
            for name in ("exporter_sent_spans", "receiver_refused_spans")
        )
        return tuple(round(sum(map(float, found))) for found in counts)


@contextlib.contextmanager
def started(*collectors):
    """Run Collectors while the block runs."""
    with contextlib.ExitStack() as stack:
        for collector in collectors:
            collector.start()
            stack.callback(collector.stop)
        yield


def one_round(parts, turn, requests, spans):
    """Return {name: CPU seconds per span} of fresh processes."""
    collectors = {name: Collector(parts, f"collector-{len(c)}", c) for name, c in rotated(CONNECTORS.items(), turn)}
    with started(*collectors.values()):
        for collector in collectors.values():
            for request in requests[:4]:
                collector.send(request)
        parts.wait_for_quiet(2)
        before = {name: cpu_seconds([collector.measured]) for name, collector in collectors.items()}
        for number in range(spans // REQUEST_SPANS):
            for collector in collectors.values():
                collector.send(requests[number % len(requests)])
        parts.wait_for_quiet(2)
        after = {name: cpu_seconds([collector.measured]) for name, collector in collectors.items()}
        for name, collector in collectors.items():
            expected = spans + 4 * REQUEST_SPANS
            poll_until(lambda c=collector, n=expected: c.sent()[0] == n, f"{expected} spans through {name}", 10)
        return {name: (after[name] - before[name]) / spans for name in collectors}


def row(name, measured):
    """Return one row."""
    mine, base = ([result[who] for result in measured] for who in (name, PASS_THROUGH))
    return {
        "variant": name,
        "CPU": ratio(mine, base),
        "us per span": mean([value * 1e6 for value in mine]),
        "more us": difference(mine, base, 1e6),
    }


def memory(parts, loads, seconds, templates):
    """Yield notes: resident memory of a fresh Collector for each of {what: requests}; then those of sizes()."""
    collectors = {what: Collector(parts, f"collector-{what.replace('/', ' per ')}") for what in loads}
    with started(*collectors.values()):
        sent = {what: send_for(seconds, collectors[what], requests) for what, requests in loads.items()}
        due = time.monotonic() + 16  # the metrics of it go out every 15 s, and there is nothing to poll for
        parts.wait_for_quiet(2)
        wire = list(sizes(parts, templates))
        time.sleep(max(0.0, due - time.monotonic()))
        for what, (rate, failed) in sent.items():
            accepted, refused = collectors[what].sent()
            counts = f"{accepted} spans sent on, {refused} refused, {failed} requests failed"
            result = f"resident memory {what}: {collectors[what].peak_mib():.0f} MiB at most"
            yield f"{result}, {rate:.0f} spans/s for {seconds} s, {counts}" if rate else result
    yield from wire


def send_for(seconds, collector, requests):
    """Send requests at PER_SECOND for seconds; return (spans a second it really was, requests that failed)."""
    began, failed = time.monotonic(), 0
    count = PER_SECOND * seconds // REQUEST_SPANS if requests else 0
    for number in range(count):
        time.sleep(max(0.0, began + number * REQUEST_SPANS / PER_SECOND - time.monotonic()))
        try:
            collector.send(requests[number % len(requests)])
        except grpc.RpcError:
            failed += 1
    return count * REQUEST_SPANS / (time.monotonic() - began), failed


class Meter:
    """Passes TCP on to 127.0.0.1:target, and counts the bytes on the way there in sent; a context manager."""

    def __init__(self, target):
        self.sent, self._target = 0, target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, server = self._listener.accept()[0], socket.create_connection(("127.0.0.1", self._target))
                for ends in ((client, server, 1), (server, client, 0)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source, sink, counts):
        with contextlib.suppress(OSError), source, sink:
            while piece := source.recv(65536):
                self.sent += counts * len(piece)
                sink.sendall(piece)


def sizes(parts, templates):
    """Yield notes: bytes per span on the wire by batch and compression, HTTP/2 included, TLS not.

    The far end is a Collector, too, because Python's gRPC server knows neither snappy nor zstd.
    """
    one_by_one = {"sending_queue": {"batch": {"flush_timeout": "1s", "sizer": "bytes", "min_size": 0}}}
    far_end = Collector(parts, "collector-far-end", [], one_by_one)
    spans = 4 + 1 / shipped.read_json("event-source-mapping.json")["BatchSize"]
    with started(far_end), Meter(far_end.otlp_port) as meter:
        for compression in ("none", "gzip", "snappy", "zstd"):
            exporter = {**one_by_one, "compression": compression, "tls": {"insecure": True}}
            with started(collector := Collector(parts, "collector-bytes", [], exporter, meter.port)):
                bytes_per_span(parts, collector, meter, make_requests(templates, 1, 1, None), 1)  # opens the connection
                found = {
                    size: bytes_per_span(parts, collector, meter, make_requests(templates, size, 40, None), size)
                    for size in (1, 10, 100, 1000)
                }
            listed = ", ".join(f"{size}: {count:.0f}" for size, count in found.items())
            a_million = ", ".join(f"{spans * found[size] / 1000:.2f} GB in batches of {size}" for size in (10, 1000))
            yield f"bytes per span on the wire, {compression}, in batches of {listed}"
            yield f"a million requests, {spans:g} spans each in full batches, {compression}: {a_million}"


def bytes_per_span(parts, collector, meter, requests, size):
    """Send requests of size spans each, and return the bytes a span takes once they were sent on one by one."""
    before, arrived = meter.sent, parts.trace_requests()
    for request in requests:
        collector.send(request)
    expected = arrived + len(requests)
    poll_until(lambda: parts.trace_requests() == expected, f"{len(requests)} batches of {size} spans", 20)
    return (meter.sent - before) / len(requests) / size
