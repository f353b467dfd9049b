"""The processes around what is measured: null SQS, the sinks, the Collector, on ports of their own."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

import shipped
from measure import BENCH, environment_of
from stack import CLIENT_KEYS, Child, Stack, StackError, free_port

PROGRAMS = BENCH / "programs"
QUIET_SECONDS = 6  # longer than any variant keeps spans without trying to send them


class Parts(Stack):
    """The stack without API and function, which the sections start themselves; entered like a Stack."""

    def __init__(self, run_dir):
        super().__init__(run_dir)
        self.sinks_port, self.xray_port = free_port(), free_port()
        self.queue_url = f"http://127.0.0.1:{self.ports.sqs}/queue/cal-onboarding-queue"
        self._variables["QUEUE_URL"] = self.queue_url

    def _start(self):
        self.sinks, self.queue, self.collector = self._sinks(), self._queue("null"), self._collector()
        self._start_together(self.sinks, self.queue)
        self._start_together(self.collector)

    def _sinks(self):
        packages = next(environment_of("sinks").parent.glob("lib/*/site-packages"))
        command = [sys.executable, PROGRAMS / "sinks.py", self.sinks_port, self.ports.ingress, self.xray_port]
        url = f"http://127.0.0.1:{self.sinks_port}/"
        return Child("sinks", [*command, self.run_dir / "ca.pem"], url, {"PYTHONPATH": str(packages)}, self.run_dir)

    def _queue(self, mode):
        command = [sys.executable, PROGRAMS / "queue_server.py", self.ports.sqs, mode]
        return Child("sqs", command, self._sqs_endpoint(), {}, self.run_dir)

    def ask_sinks(self, path="counts"):
        """Return what the sinks have counted."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.sinks_port}/{path}", timeout=30) as response:
            return json.load(response)

    @property
    def variables(self):
        """What the placeholders in the shipped files stand for."""
        return self._variables

    def wait_for_quiet(self, seconds=1.5):
        """Wait until nothing more arrives at the sinks, and return their counts."""
        return self.wait_for_roots({"": 1}, seconds)

    def wait_for_roots(self, expected, quiet=QUIET_SECONDS):
        """Wait until every reporter in {reporter: roots} has reported so many, or nothing more comes; return counts."""
        before, since = None, time.monotonic()
        while True:
            counts = self.ask_sinks()
            counts.pop("metrics", None)  # the Collector repeats them every second
            if all(counts.get(name, {}).get("roots", 0) >= roots for name, roots in expected.items()):
                return counts
            if counts != before:
                before, since = counts, time.monotonic()
            elif time.monotonic() - since > quiet:
                return counts
            time.sleep(0.2)

    def trace_requests(self):
        """Return how many requests with spans the ingress has got."""
        return self.ask_sinks().get("traces", {}).get("requests", 0)

    def aws_environment(self):
        """Return what boto3 needs to find the queue."""
        return {
            "AWS_ENDPOINT_URL_SQS": self._sqs_endpoint(),
            "AWS_ACCESS_KEY_ID": CLIENT_KEYS["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": CLIENT_KEYS["aws_secret_access_key"],
        }

    def api_environment(self):
        """Return the API's variables as shipped, with the addresses of this run."""
        return shipped.container_environment("onboarding-api", self._variables) | {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector_url,
            **self.aws_environment(),
        }

    @property
    def collector_url(self):
        """The Collector's OTLP/gRPC endpoint."""
        return f"http://127.0.0.1:{self.ports.collector}"


def with_bin(environment, directory: Path):
    """Return an environment in which programs are those of a virtual environment."""
    return {**environment, "PATH": f"{directory}:/usr/bin:/bin"}


class Worker:
    """A program that writes a line of JSON for each line on its standard input."""

    def __init__(self, name, command, environment, run_dir, cwd=None):
        self.name = name
        self._log = (run_dir / f"{name}.log").open("ab")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
        words = [str(word) for word in command]
        self._process = subprocess.Popen(words, env=environment, cwd=cwd, text=True, **pipes)
        self.process = psutil.Process(self._process.pid)

    def ask(self, *words):
        """Return the result of a line of words; raises StackError when the program has ended."""
        print(*words, file=self._process.stdin, flush=True)
        if not (result := self._process.stdout.readline()):
            raise StackError(f"{self.name} has died; its last words are in {self._log.name}")
        return json.loads(result)

    def stop(self):
        """End the program."""
        self._process.kill()
        self._process.communicate()
        self._log.close()
