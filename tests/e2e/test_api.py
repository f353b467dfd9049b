"""The API's door, as a stranger would knock: real gunicorn, real instrumentation."""

import socket

import pytest

from stack import poll_until

JSON = {"Content-Type": "application/json"}
VALID = '{"customer_id":"TEST-001"}'
HOSTILE = {
    "traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-00",
    "tracestate": "vendor=value",
    "baggage": "user=someone",
}


@pytest.mark.parametrize(
    ("status", "method", "path", "body", "headers"),
    [
        pytest.param(400, "POST", "/customers", '{"customer_id":', JSON, id="malformed JSON"),
        pytest.param(400, "POST", "/customers", b'{"customer_id":"\xff"}', JSON, id="invalid UTF-8"),
        pytest.param(400, "POST", "/customers", "[" * 60_000, JSON, id="nested by the thousand"),
        pytest.param(400, "POST", "/customers", '["TEST-001"]', JSON, id="not an object"),
        pytest.param(400, "POST", "/customers", "{}", JSON, id="no customer_id"),
        pytest.param(404, "POST", "/nowhere", VALID, JSON, id="unknown route"),
        pytest.param(405, "PUT", "/customers", VALID, JSON, id="wrong method"),
        pytest.param(413, "POST", "/customers", '{"customer_id":"' + "a" * 65_536 + '"}', JSON, id="over 64 KiB"),
        pytest.param(415, "POST", "/customers", VALID, {"Content-Type": "text/plain"}, id="wrong content type"),
    ],
)
def test_a_request_that_is_wrong_gets_a_sentence_and_its_status(call, status, method, path, body, headers):
    answered, answer, _ = call(method, path, body, headers)
    assert (answered, list(answer)) == (status, ["error"])
    assert answer["error"].endswith(".")


def test_health_is_not_traced_but_a_url_with_that_word_is(stack, onboard, trace_with, call):
    assert call("GET", "/health")[0] == 200
    status, answer, _ = call("POST", "/customers?from=/health", {"customer_id": "TEST-health"})
    assert status == 202
    trace_with(answer["trace_id"], 4)
    assert not [s for s in stack.ingress.spans() if s.name == "GET /health"]


def test_unrouted_paths_do_not_become_span_names(stack, call):
    def names():
        return {span.name for span in stack.ingress.spans() if span.attributes.get("http.status_code") in (404, 405)}

    for number in range(5):
        assert call("GET", f"/nowhere/{number}")[0] == 404
    assert call("DELETE", "/customers")[0] == 405
    assert call("BREW", "/coffee")[0] == 404
    poll_until(lambda: {"GET", "DELETE", "HTTP"} <= names(), "the spans of the refused requests")
    assert names() <= {"GET", "PUT", "POST", "DELETE", "HTTP"}


def test_a_strangers_trace_context_does_not_get_in(stack, call, trace_with):
    status, answer, _ = call("POST", "/customers", {"customer_id": "TEST-stranger"}, HOSTILE)
    assert status == 202
    assert answer["trace_id"] not in HOSTILE["traceparent"]
    spans = trace_with(answer["trace_id"], 4)
    assert not [span for span in spans if "someone" in str(span) or "vendor" in str(span)]


def test_a_chunked_body_over_the_limit_is_refused(stack):
    with socket.create_connection(("127.0.0.1", stack.ports.api), timeout=20) as connection:
        connection.sendall(
            b"POST /customers HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        connection.sendall(b"11000\r\n" + b" " * 0x11000 + b"\r\n0\r\n\r\n")
        assert b" 413 " in connection.recv(1024).split(b"\r\n")[0]
