"""The whole stack, started once, with the ways in: HTTP for the API, SQS for what it would never send; and the demo."""

import http.client
import json
import os
import signal
import subprocess
import sys
import uuid

import psutil
import pytest

import shipped
import view
from stack import Stack, poll_until


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    """The running stack; SQS redelivers after a second, so that a poisoned record is dead-lettered soon."""
    with Stack(tmp_path_factory.mktemp("stack") / "run", visibility_timeout=1) as running:
        yield running


@pytest.fixture(scope="session")
def call(stack):
    """call(method, path, body, headers) sends one request; returns (status, JSON response, headers)."""

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
    """onboard(path) sends one valid request and returns its 202 response."""

    def send(path="/telemetry/smoke", **fields):
        status, queued, _ = call("POST", path, {"customer_id": f"TEST-{uuid.uuid4()}", **fields})
        assert status == 202, queued
        return queued

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


# make demo, but for the documented ports, the run directory and the viewer: those a demo that is up would have taken.
RUN = """
import pathlib, sys, demo, trace_viewer
demo.PORTS, demo.RUN_DIR = {ports}, pathlib.Path({run_dir!r})
trace_viewer.PROGRAM, trace_viewer.BUILD = pathlib.Path({viewer!r}), {build!r}
sys.exit(demo.main())
"""
NOT_BUILT = ["sh", "-c", "echo no viewer in this test; exit 1"]
# What a demo of a test does not inherit; the last two are of the terminal that the tests run in.
OF_THE_DEVELOPER = {
    *("CORALOGIX_DOMAIN", "CORALOGIX_PRIVATE_KEY", "HTTPS_PROXY", "https_proxy", "COLUMNS", "LINES"),
    *("PORT", "VIEWER_PORT", "LISTEN_ADDRESS"),
}


class Demo:
    """A demo that runs as a process of its own, with free ports.

    viewer: the viewer's program; build: the command that builds it if it is not there; variables: its environment's.
    """

    def __init__(self, directory, *arguments, ports=(), viewer="no viewer", build=NOT_BUILT, stdout=None, **variables):
        self.run_dir = directory / "run"
        program = RUN.format(
            ports=dict(ports), run_dir=str(self.run_dir), viewer=str(viewer), build=[str(word) for word in build]
        )
        inherited = {name: value for name, value in os.environ.items() if name not in OF_THE_DEVELOPER}
        self._out = directory / "out"
        with self._out.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, *arguments],
                cwd=shipped.ROOT / "infrastructure/local",
                env={**inherited, "PYTHONUNBUFFERED": "1", **variables},
                stdout=stdout or output,
                stderr=stdout or subprocess.STDOUT,
            )

    def output(self):
        """Return what it has printed so far."""
        return self._out.read_text()

    def wait_for(self, words, timeout=60):
        """Wait until it has printed the words; return everything it has printed."""
        poll_until(lambda: words in self.output() or self.process.poll() is not None, repr(words), timeout)
        assert words in self.output()
        return self.output()

    def ended(self):
        """Return its exit status."""
        return self.process.wait(timeout=90)

    def interrupt(self):
        """Press Ctrl-C; return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def offspring(self):
        """Return the living processes that it has started."""
        found = []
        for process in psutil.process_iter(["environ", "status"]):
            environment = process.info["environ"] or {}
            if environment.get("HOME") == str(self.run_dir) and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found


@pytest.fixture
def demo(tmp_path):
    """demo(...) starts a Demo; whatever is left of it is killed at the end."""
    started = []

    def start(*arguments, **options):
        started.append(Demo(tmp_path, *arguments, **options))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.process.wait()
        for process in running.offspring():
            process.kill()
