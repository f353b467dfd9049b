"""make demo: what it prints, how it ends, and that it leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import shipped
from stack import poll_until

GOLDEN_TRACE = (shipped.ROOT / "tests/golden-trace.txt").read_text()
# make demo, but for the documented ports and the run directory, which a demo that is up would have taken.
RUN = "import pathlib, sys, demo; demo.PORTS, demo.RUN_DIR = {ports}, pathlib.Path({run_dir!r}); sys.exit(demo.main())"


@pytest.fixture
def demo(tmp_path):
    """demo(*arguments, ports) starts the demo; returns the process. Whatever is left of it is killed at the end."""
    started = []

    def start(*arguments, ports=None, **environment):
        program = RUN.format(ports=ports or {}, run_dir=str(tmp_path / "run"))
        with (tmp_path / "out").open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", program, *arguments],
                cwd=shipped.ROOT / "infrastructure/local",
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        process.output = tmp_path / "out"
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def offspring(run_dir):
    """Return the living processes that were started with that run_dir."""
    found = []
    for process in psutil.process_iter(["environ", "status"]):
        environment = process.info["environ"] or {}
        if environment.get("HOME") == str(run_dir) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def wait_for_output(process, words, timeout=60):
    """Wait until the demo has printed the words."""
    poll_until(lambda: words in process.output.read_text() or process.poll() is not None, repr(words), timeout)
    assert words in process.output.read_text()


def test_once_prints_the_golden_trace_red_and_log_lines_and_leaves_nothing(demo, tmp_path):
    process = demo("--once")
    assert process.wait(timeout=90) == 0, process.output.read_text()
    output = process.output.read_text()
    for line in GOLDEN_TRACE.splitlines():
        assert f"\n  {line}" in output
    for row in (
        "onboarding-api     POST /telemetry/smoke  SERVER        1      0",
        "onboarding-lambda  sqs.process            CONSUMER      1",
    ):
        assert row in output
    for words in (
        "PRODUCER trace_id=",
        "extracted traceparent 00-",
        "onboarded customer_id=TEST-001",
        "Flush complete",
    ):
        assert words in output
    assert "warn" not in output.lower()
    assert offspring(tmp_path / "run") == []


@pytest.mark.parametrize("moment", ["Starting", "The demo stays up until Ctrl-C"])
def test_ctrl_c_stops_everything(demo, tmp_path, moment):
    process = demo()
    wait_for_output(process, moment)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0, process.output.read_text()
    assert process.output.read_text().endswith("Stopped.\n")
    assert offspring(tmp_path / "run") == []


def test_a_child_that_dies_is_named(demo, tmp_path):
    process = demo()
    wait_for_output(process, "The demo stays up until Ctrl-C")
    collector = next(p for p in offspring(tmp_path / "run") if "otelcol" in p.cmdline()[0])
    collector.kill()
    assert process.wait(timeout=60) == 1
    assert "The demo stopped: otel-collector has died." in process.output.read_text()
    assert offspring(tmp_path / "run") == []


def test_a_port_in_use_is_named(demo):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = demo("--once", ports={"api": port})
        assert process.wait(timeout=60) == 1
        assert f"The demo stopped: port {port} (api) is in use" in process.output.read_text()


def test_a_missing_tool_is_named(demo, tmp_path):
    process = demo("--once", OTELCOL=str(tmp_path / "no-such-otelcol"))
    assert process.wait(timeout=60) == 1
    assert "The demo stopped: otel-collector did not start." in process.output.read_text()
    assert offspring(tmp_path / "run") == []


def test_install_names_the_remedy_when_python_cannot_make_virtual_environments(tmp_path):
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; esac\n')
    python.chmod(0o755)
    done = subprocess.run(
        [shipped.ROOT / "infrastructure/local/install.sh", "python"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHON": str(python)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr
    assert list(Path(tmp_path / ".tools").iterdir()) == []
