"""The whole stack, started once, and the ways in: HTTP for the API, SQS for what the API would never send."""

import http.client
import json
import uuid

import pytest

import view
from stack import Stack, poll_until


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    """The running stack; SQS redelivers after a second, so that a poisoned record is dead-lettered soon."""
    with Stack(tmp_path_factory.mktemp("stack") / "run", visibility_timeout=1) as running:
        yield running


@pytest.fixture(scope="session")
def call(stack):
    """call(method, path, body, headers) sends one request; returns (status, JSON answer, headers)."""

    def send(method, path, body=None, headers=()):
        connection = http.client.HTTPConnection("127.0.0.1", stack.ports.api, timeout=20)
        payload = json.dumps(body) if isinstance(body, dict) else body
        connection.request(method, path, payload, {"Content-Type": "application/json", **dict(headers)})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, json.loads(content), response.headers

    return send


@pytest.fixture(scope="session")
def onboard(call):
    """onboard(path) sends one valid request and returns its 202 answer."""

    def send(path="/telemetry/smoke", **fields):
        status, answer, _ = call("POST", path, {"customer_id": f"TEST-{uuid.uuid4()}", **fields})
        assert status == 202, answer
        return answer

    return send


@pytest.fixture(scope="session")
def trace_with(stack):
    """trace_with(trace_id, count) returns the trace's spans once count of them have arrived."""

    def wait(trace_id, count):
        def arrived():
            spans = view.trace_of(stack.ingress.spans(), trace_id)
            return spans if len(spans) >= count else None

        return poll_until(arrived, f"{count} spans of trace {trace_id}")

    return wait


@pytest.fixture(scope="session")
def log_lines(stack):
    """log_lines(child, *words) returns the lines of a program's log that have all the words."""

    def read(child, *words):
        return [line for line in child.log_file.read_text().splitlines() if all(word in line for word in words)]

    return read
