"""make demo: what it prints, how it ends, and that it leaves nothing behind."""

import contextlib
import fcntl
import json
import os
import pty
import re
import socket
import struct
import termios
import threading
import urllib.request

import pytest

import shipped
from stack import free_port, poll_until

GOLDEN_TRACE = (shipped.ROOT / "tests/golden-trace.txt").read_text()
STAYS = "The demo stays up until Ctrl-C"
# Ctrl-C while Python runs a callback of which it only prints exceptions, when the run directory is emptied.
INTERRUPTED_IN_A_CALLBACK = """
import signal, sys, weakref

class Dropped: pass

def interrupt_once(event, arguments):
    if event == "shutil.rmtree" and not interrupted:
        interrupted.append(event)
        dropped = Dropped()
        reference = weakref.ref(dropped, lambda _: signal.raise_signal(signal.SIGINT))
        del dropped

interrupted = []
sys.addaudithook(interrupt_once)
"""
HEADINGS = r"service +span +kind +calls +errors +calls/s +p95 ms"


def test_once_prints_the_golden_trace_red_and_log_lines_and_leaves_nothing(demo, tmp_path):
    built = tmp_path / "built"
    running = demo("--once", build=["touch", built])
    assert running.ended() == 0, running.output()
    output = running.output()
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
    assert running.offspring() == []
    assert "viewer" not in output
    assert not built.exists()


@pytest.mark.parametrize("moment", ["Starting", STAYS])
def test_ctrl_c_stops_everything(demo, moment):
    running = demo()
    running.wait_for(moment)
    assert running.interrupt() == 0, running.output()
    assert running.output().endswith("Stopped.\n")
    assert running.offspring() == []


def test_ctrl_c_where_python_ignores_exceptions_stops_everything(demo, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED_IN_A_CALLBACK)
    running = demo(PYTHONPATH=str(tmp_path))
    assert running.ended() == 0, running.output()
    assert running.output().endswith("Stopped.\n")
    assert running.offspring() == []


def test_a_child_that_dies_is_named(demo):
    running = demo()
    running.wait_for(STAYS)
    collector = next(p for p in running.offspring() if "otelcol" in p.cmdline()[0])
    collector.kill()
    assert running.ended() == 1
    assert "The demo stopped: otel-collector has died." in running.output()
    assert running.offspring() == []


def test_a_port_in_use_is_named(demo):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        running = demo("--once", ports={"api": port})
        assert running.ended() == 1
        assert f"The demo stopped: port {port} (api) is in use" in running.output()


def test_a_missing_tool_is_named(demo, tmp_path):
    running = demo("--once", OTELCOL=str(tmp_path / "no-such-otelcol"))
    assert running.ended() == 1
    assert "The demo stopped: otel-collector did not start." in running.output()
    assert running.offspring() == []


def test_a_proxy_in_the_environment_is_not_asked_for_this_machine(demo):
    running = demo("--once", **dict.fromkeys(("http_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"))
    assert running.ended() == 0, running.output()


def test_without_a_terminal_plain_lines_follow_the_traffic(demo):
    port = free_port()
    running = demo(ports={"api": port})
    running.wait_for(STAYS)
    response = onboard(port, "PLAIN-1")
    output = running.wait_for("onboarding-lambda: onboarded customer_id=PLAIN-1")
    assert f"onboarding-api: INFO PRODUCER trace_id={response['trace_id']}" in output
    running.wait_for("\n10 spans received, 0 in the queue, 0 in the dead-letter queue")
    assert re.search(HEADINGS, output)
    assert re.search(r"onboarding-lambda +sqs.process +CONSUMER +2 +0", running.output())
    assert "\x1b" not in running.output()
    assert running.interrupt() == 0


def test_on_a_terminal_the_whole_screen_is_drawn_anew_in_whatever_size_it_has(demo):
    port, (screen, terminal), output = free_port(), pty.openpty(), bytearray()
    resize(screen, 24, 80)
    running = demo(ports={"api": port}, stdout=terminal, TERM="xterm-256color")
    os.close(terminal)
    threading.Thread(target=copy, args=(screen, output), daemon=True).start()

    def shown(*patterns, width=80, height=24):
        def found():
            lines = last_frame(output)
            sizes = {len(line) for line in lines}
            return (len(lines), sizes) == (height, {width}) and all(re.search(p, "\n".join(lines)) for p in patterns)

        poll_until(found, f"{patterns}; on the screen: {last_frame(output)}", 60)

    shown(
        HEADINGS,
        r"\n  POST /telemetry/smoke +SERVER +onboarding-api +\d+\.\d ms",
        r"trace viewer: none: no viewer in this",
    )
    trace_id = onboard(port, "LIVE-1")["trace_id"]
    shown(rf"trace {trace_id}", r"sqs\.process +CONSUMER +2 +0", "10 spans received", "  curl http://127.0.0.1:")
    resize(screen, 30, 60)
    shown(rf"trace {trace_id}", "10 spans received", r"onboarded customer_id=LIVE-1", width=60, height=30)
    assert running.interrupt() == 0
    poll_until(lambda: output.endswith(b"Stopped.\r\n"), "the end")
    assert output.count(b"\x1b[?1049h") == output.count(b"\x1b[?1049l") == 1  # the terminal is as it was


def onboard(port, customer_id):
    """Send one request; return its response."""
    body = json.dumps({"customer_id": customer_id}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/telemetry/smoke", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.load(response)


def resize(screen, height, width):
    """Give a terminal another size."""
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def last_frame(output):
    """Return the lines that were drawn last and completely."""
    text = re.sub(r"\x1b\[[\d;]*m", "", output.decode(errors="replace")).replace("\r", "")
    return text.split("\x1b[H")[-1].split("\x1b[?1049l")[0].split("\n")


def copy(screen, drawn):
    """Append to drawn what a terminal shows, until nobody has it open any more, which Linux reports as an error."""
    with contextlib.suppress(OSError):
        while content := os.read(screen, 65536):
            drawn += content
    os.close(screen)
