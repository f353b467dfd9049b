"""What callers can do to connections and to the log: the shipped gunicorn alone, with a queue that can't be reached."""

import contextlib
import http.client
import http.server
import json
import os
import re
import socket
import subprocess
import threading
import time

import pytest

import shipped
from stack import free_port, poll_until

VARIABLES = {
    "AWS_REGION": "us-east-1",
    "IMAGE_TAG": "test",
    "QUEUE_URL": "http://127.0.0.1:9/queue/cal-onboarding-queue",
    "CORALOGIX_DOMAIN": "coralogix.invalid",
}
MIB = 1024 * 1024
HEALTH = b"GET /health HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"
JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"
SECRET = "someone@secret.example"


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """The API as it ships."""
    with started(tmp_path_factory.mktemp("api"), AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test") as running:
        yield running


@contextlib.contextmanager
def started(directory, **variables):
    """Start the API with more variables; yield it as an Api."""
    log_file, port = directory / "log", free_port()
    environment = shipped.container_environment("onboarding-api", VARIABLES) | variables
    environment["PATH"] = f"{shipped.ROOT / '.venv/bin'}:{os.environ['PATH']}"
    environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    command = [*shipped.start_command("onboarding-api/Dockerfile"), "--bind", f"127.0.0.1:{port}"]
    with log_file.open("w") as log:
        process = subprocess.Popen(
            command, cwd=shipped.ROOT / "onboarding-api", env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    running = Api(port, log_file)
    try:
        poll_until(running.is_up, "the API")
        yield running
    finally:
        process.terminate()
        process.wait(60)


class Api:
    """The running API."""

    def __init__(self, port, log_file):
        self.port, self._log_file = port, log_file

    def connect(self):
        """Return a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def ask(self, *pieces):
        """Send the pieces; return all that comes back until the connection is closed."""
        with self.connect() as connection:
            for piece in pieces:
                connection.sendall(piece)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def is_up(self):
        """Return whether it responds."""
        with contextlib.suppress(OSError):
            return statuses(self.ask(HEALTH)) == [200]
        return False

    def log(self):
        """Return the lines logged so far, but for those of the exporter, which can't reach the Collector."""
        lines = self._log_file.read_text().splitlines()
        return [line for line in lines if not re.search("Failed to export|Transient error", line)]


def request(target="/customers", *headers, method="POST", length=None):
    lines = [f"{method} {target} HTTP/1.1", "Host: api", *headers]
    lines += [] if length is None else [f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()


def statuses(responses):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", responses)]


@pytest.mark.parametrize(
    ("count", "begun"),
    [
        pytest.param(320, b"", id="nothing"),
        pytest.param(64, b"P", id="one byte"),
        pytest.param(64, request()[:-2], id="half of the headers"),
        pytest.param(64, request("/customers", JSON, length=100) + b"{", id="half of a body"),
        pytest.param(64, request("/customers", JSON, CHUNKED) + b"ff\r\n{", id="half of a chunk"),
        pytest.param(64, request("/nowhere", length=100), id="a rejected request without its body"),
        pytest.param(64, b"x\r\n\r\n", id="what is no HTTP, and no end"),
        pytest.param(64, HEALTH, id="a whole request, and no end"),
        pytest.param(64, request("/health", method="GET"), id="a whole request, and no other"),
    ],
)
def test_nobodys_silence_keeps_others_out(api, count, begun):
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(api.connect())
            connection.sendall(begun)
        others = (HEALTH, request("/customers", JSON, "Connection: close", length=2) + b"{}")
        for raw, status in zip(others * 2, (200, 400) * 2, strict=True):  # either worker may get any of them
            began = time.monotonic()
            assert statuses(api.ask(raw)) == [status]
            assert time.monotonic() - began < 5  # the time-out of the task's health check


@pytest.mark.parametrize(
    ("status", "target", "headers"),
    [
        pytest.param(404, "/nowhere", [JSON], id="unknown path"),
        pytest.param(405, "/health", [JSON], id="wrong method"),
        pytest.param(413, "/customers", [JSON], id="too large"),
        pytest.param(415, "/customers", ["Content-Type: text/plain"], id="wrong type"),
    ],
)
@pytest.mark.parametrize("more", [[], ["Connection: close"], ["Expect: 100-continue"], [CHUNKED]], ids=str)
def test_a_rejected_request_of_ten_mib_gets_its_one_response(api, status, target, headers, more):
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (10 * MIB, b"x" * 10 * MIB) if more == [CHUNKED] else b"x" * 10 * MIB
    head = request(target, *headers, *more, length=None if more == [CHUNKED] else len(body))
    close = [] if more == ["Connection: close"] else [HEALTH]
    expected = [100] if more == ["Expect: 100-continue"] else []
    assert statuses(api.ask(head, body, *close)) == [*expected, status] + [200] * len(close)


def test_a_connection_outlives_a_rejected_request(api):
    connection, used = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60), set()
    for size in (0, 1, 65_537, 10 * MIB, 1):
        connection.request("POST", "/nowhere", b"x" * size)
        response = connection.getresponse()
        assert (response.status, list(json.loads(response.read()))) == (404, ["error"])
        used.add(connection.sock)
    connection.close()
    assert len(used) == 1


@pytest.mark.parametrize(
    ("status", "target", "content_type"),
    [(404, "/nowhere", JSON), (415, "/customers", "Content-Type: text/plain"), (400, "/customers", JSON)],
)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"zz\r\n", id="no size"),
        pytest.param(b"-1\r\n", id="negative size"),
        pytest.param(b"1;=\r\nx\r\n0\r\n\r\n", id="malformed extension"),
        pytest.param(b"1\r\nxyz\r\n0\r\n\r\n", id="wrong size"),
        pytest.param(b"0\r\nnonsense\r\n\r\n", id="malformed trailer"),
        pytest.param(b"1\r\nx\r\nzz\r\n" + b"y" * 50_000, id="more behind it"),
        pytest.param(b"zz\r\n" + HEALTH, id="a request behind it"),
    ],
)
def test_malformed_chunks_get_one_response_and_the_end(api, status, target, content_type, body):
    assert statuses(api.ask(request(target, content_type, CHUNKED) + body)) == [status]


def test_requests_in_a_row_each_get_their_response(api):
    assert statuses(api.ask((request("/nowhere", length=3) + b"abc") * 20 + HEALTH)) == [404] * 20 + [200]


MALFORMED = [
    pytest.param(f"POST /customers?name={SECRET} x HTTP/1.1\r\nHost: a\r\n\r\n", id="a space in the query"),
    pytest.param(f"POST /customers?name=Zo\xe9{SECRET} HTTP/1.1\r\nHost: a\r\n\r\n", id="a letter that is not ASCII"),
    pytest.param(f"GET / HTTP/1.1\r\nHost: a\r\nX Mail {SECRET}: x\r\n\r\n", id="a space in a header's name"),
    pytest.param(f"GET / HTTP/1.1\r\nHost: a\r\nX: {SECRET}\x00\r\n\r\n", id="NUL in a header"),
    pytest.param(f"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n {SECRET}\r\n\r\n", id="a folded header"),
    pytest.param(f"GET /{SECRET} HTTP/9.9\r\nHost: a\r\n\r\n", id="an unknown version"),
    pytest.param(f"{SECRET} / HTTP/1.1\r\nHost: a\r\n\r\n", id="a method that is none"),
    pytest.param(f"GET /{SECRET}{'x' * 9000} HTTP/1.1\r\nHost: a\r\n\r\n", id="a long request line"),
    pytest.param(f"GET / HTTP/1.1\r\nHost: a\r\nX: {SECRET}{'x' * 9000}\r\n\r\n", id="a long header"),
    pytest.param("GET / HTTP/1.1\r\n" + f"X: {SECRET}\r\n" * 101 + "\r\n", id="many headers"),
    pytest.param(f"POST / HTTP/1.1\r\nTransfer-Encoding: {SECRET}\r\n\r\n", id="an unknown coding"),
    pytest.param(f"POST / HTTP/1.1\r\nContent-Length: {SECRET}\r\n\r\n", id="a length that is no number"),
    pytest.param(f"POST / HTTP/1.1\r\nHost: a\r\nExpect: {SECRET}\r\n\r\n", id="an unknown expectation"),
    pytest.param(f"PROXY TCP4 {SECRET} 1 1 1\r\nGET / HTTP/1.1\r\n\r\n", id="a proxy's line"),
    pytest.param("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SECRET, id="HTTP/2"),
    pytest.param("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + SECRET + "\r\n\r\n", id="TLS"),
]


@pytest.mark.parametrize("raw", MALFORMED)
def test_malformed_http_leaves_no_line(api, raw):
    before = len(api.log())
    responses = api.ask(raw.encode("latin-1"))
    assert len(statuses(responses)) <= 1
    assert api.is_up()
    assert api.log()[before:] == []


LONG = "x" * 7_000


@pytest.mark.parametrize("header", ["User-Agent", "Cookie", "traceparent", "tracestate", "baggage", "X-Forwarded-For"])
@pytest.mark.parametrize("value", [LONG, "a=%00,=,;" + SECRET, "\xff\xfe" + SECRET], ids=["long", "malformed", "bytes"])
def test_a_rejected_request_leaves_no_line_whatever_its_headers(api, header, value):
    before = len(api.log())
    raw = f"GET /nowhere?{LONG[:1200]} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{header}: {value}\r\n\r\n"
    assert statuses(api.ask(raw.encode("latin-1"))) == [404]
    assert api.log()[before:] == []


def test_a_request_that_is_not_queued_leaves_one_line_with_its_trace(api):
    before = len(api.log())
    body = f'{{"customer_id":"TEST-secret","mail":"{SECRET}"}}'.encode()
    head = request(f"/customers?{LONG[:1200]}", JSON, "Connection: close", f"baggage: {LONG}", length=len(body))
    assert statuses(api.ask(head + body)) == [503]
    (line,) = api.log()[before:]
    pattern = r"ERROR SQS did not accept request_id=[0-9a-f-]{36} trace_id=[0-9a-f]{32}: 'EndpointConnectionError'"
    assert re.fullmatch(pattern, line)


class ExpiredCredentials(http.server.BaseHTTPRequestHandler):
    """What ECS gives a container as credentials, when it has not got new ones."""

    def do_GET(self):
        """Give them."""
        expired = {"Expiration": "2020-01-01T00:00:00Z"}
        content = json.dumps({"AccessKeyId": "test", "SecretAccessKey": "test", "Token": "test"} | expired).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Log nothing."""


def test_credentials_that_are_refreshed_and_still_expired_are_a_503_and_one_line(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), ExpiredCredentials) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        with started(tmp_path, AWS_CONTAINER_CREDENTIALS_FULL_URI=url) as api:
            head = request("/customers", JSON, "Connection: close", length=26)
            assert statuses(api.ask(head + b'{"customer_id":"TEST-001"}')) == [503]
            lines = [line for line in api.log() if "request_id" in line or "redential" in line]
        server.shutdown()
    (line,) = lines
    assert re.fullmatch(r"ERROR SQS did not accept request_id=\S+ trace_id=[0-9a-f]{32}: 'RuntimeError'", line)
