"""A process of the stack: its log, its environment, when it counts as started, and that all of it ends."""

import os
import signal
import sys

import psutil
import pytest

from child import Child, StackError, poll_until
from stack import free_port

# Responds as the words say, one status a request and the last one for ever; prints its environment before that.
SERVER = """
import http.server, json, os, subprocess, sys
print(json.dumps(dict(os.environ)), flush=True)
statuses = [int(word) for word in sys.argv[2:]]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
        self.end_headers()

subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def child(tmp_path):
    """child(*statuses, program, status, environment) makes a Child; it is stopped at the end."""
    made = []

    def make(*statuses, program=SERVER, status=200, environment=()):
        port = free_port()
        command = [sys.executable, "-c", program, port, *statuses]
        made.append(Child("server", command, f"http://127.0.0.1:{port}", dict(environment), tmp_path, status=status))
        return made[-1]

    yield make
    for each in made:
        each.stop(signal.SIGKILL)


def test_it_is_ready_when_it_responds_with_the_status_that_is_waited_for(child):
    started = child(503, 200, 404, status=404).start()
    log = started.log_file.read_text()
    assert [log.count(f'HTTP/1.1" {status} ') for status in (503, 200, 404)] == [1, 1, 1]


def test_it_has_the_environment_it_is_given_and_none_of_ours(child, monkeypatch, tmp_path):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    started = child(200, environment={"GIVEN": "yes"}).start()
    environment = psutil.Process(started.process.pid).environ()
    assert set(environment) - {"LC_CTYPE"} == {"PATH", "HOME", "GIVEN"}  # the former is Python's own
    assert (environment["HOME"], environment["GIVEN"]) == (str(tmp_path), "yes")
    assert environment["PATH"].startswith(f"{tmp_path}{os.pathsep}{os.path.dirname(sys.executable)}{os.pathsep}")


def test_another_environment_counts_from_the_next_start(child):
    started = child(200, environment={"GIVEN": "first"}).start()
    started.stop()
    started.environment = {"GIVEN": "second"}
    started.start()
    assert psutil.Process(started.process.pid).environ()["GIVEN"] == "second"


def test_everything_it_has_started_ends_with_it(child):
    started = child(200).start()
    family = [psutil.Process(started.process.pid), *psutil.Process(started.process.pid).children()]
    assert len(family) == 2
    started.stop()
    assert not started.running()
    poll_until(lambda: not any(alive(process) for process in family), "the end of all of it")


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_it_ends_although_it_ignores_the_signal(child, monkeypatch):
    monkeypatch.setattr("child.STOP_SECONDS", 0.1)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER
    started = child(200, program=deaf).start()
    started.stop()
    assert not started.running()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        pytest.param("raise SystemExit('no such luck')", "server did not start. .* no such luck", id="it ends"),
        pytest.param("import time\nprint('busy', flush=True)\ntime.sleep(600)", ".*: busy", id="it never responds"),
    ],
)
def test_what_does_not_start_is_an_error_with_its_last_words_and_leaves_nothing(child, monkeypatch, program, message):
    monkeypatch.setattr("child.START_SECONDS", 3)
    failing = child(program=program)
    with pytest.raises(StackError, match=message):
        failing.start()
    assert not failing.running()


def test_a_program_that_is_not_there_is_an_error_that_names_the_child(tmp_path):
    with pytest.raises(StackError, match="server did not start"):
        Child("server", [tmp_path / "no such program"], "http://127.0.0.1:9", {}, tmp_path).start()
