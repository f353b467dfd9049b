"""The trace viewer of make demo: fed from the start, built in the background, and never in the demo's way."""

import html
import re
import shutil
import socket
import subprocess
import sys
import urllib.request

import grpc
import psutil
import pytest
import yaml

import shipped
import trace_viewer
from stack import free_port, poll_until

GOLDEN_TRACE = (shipped.ROOT / "tests/golden-trace.txt").read_text()
UP = "The trace viewer is up:"
WITHOUT = "The demo goes on without the trace viewer: "
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FAKE_VIEWER = """#!{python}
import http.server, sys
port = next(word.split("=")[1] for word in sys.argv if word.startswith("--browser-port="))
http.server.HTTPServer(("127.0.0.1", int(port)), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def script(path, text):
    """Write a program; return its path."""
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def viewer(tmp_path):
    """A program that starts as the viewer does, and has an empty page."""
    return script(tmp_path / "viewer", FAKE_VIEWER.format(python=sys.executable))


def test_the_viewer_gets_traces_and_never_metrics_which_would_push_them_out():
    pipelines = yaml.safe_load((shipped.ROOT / "otel/coralogix-collector.yaml").read_text())["service"]["pipelines"]
    restated = shipped.pipelines_with(["otlp_grpc/stand-in"], ["otlp_grpc/viewer"])["service"]["pipelines"]
    assert restated.keys() == pipelines.keys()
    for name, pipeline in restated.items():
        viewer = ["otlp_grpc/viewer"] if name.split("/")[0] == "traces" else []
        assert pipeline == {"exporters": [*pipelines[name]["exporters"], "otlp_grpc/stand-in", *viewer]}


def test_the_feed_takes_everything_at_once_and_hands_it_out_in_order():
    with trace_viewer.Feed() as feed, grpc.insecure_channel(feed.address) as channel:
        assert feed.next() is None
        for number in range(3):
            assert channel.unary_unary("/a.Service/Export")(b"%d" % number, timeout=10) == b""
        assert [feed.next()[1] for _ in range(3)] == [b"0", b"1", b"2"]
        assert feed.next() is None


def test_the_feed_drops_the_oldest_when_nobody_takes_it(monkeypatch):
    monkeypatch.setattr(trace_viewer.Feed, "MAX_BYTES", 250)
    with trace_viewer.Feed() as feed, grpc.insecure_channel(feed.address) as channel:
        for number in range(10):
            channel.unary_unary("/a.Service/Export")(b"%d" % number * 100, timeout=10)
        assert [feed.next()[1][:1] for _ in range(2)] == [b"8", b"9"]
        assert feed.next() is None


def test_the_page_is_elsewhere_when_its_port_is_taken(monkeypatch):
    port = free_port()
    monkeypatch.setattr(trace_viewer, "PAGE_PORT", port)
    assert trace_viewer.page_port() == port
    with socket.create_server(("127.0.0.1", port)):
        assert trace_viewer.page_port() != port


def test_a_viewer_that_cannot_be_built_is_one_line_and_the_demo_goes_on(demo):
    port = free_port()
    running = demo(ports={"api": port}, build=["sh", "-c", "echo a line; echo no compiler; exit 1"])
    output = running.wait_for(WITHOUT)
    (line,) = [line for line in output.splitlines() if WITHOUT in line]
    assert line.endswith("no compiler")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as response:
        assert response.status == 200
    assert running.interrupt() == 0


def test_ctrl_c_ends_the_build(demo, tmp_path):
    running = demo(build=["sh", "-c", f"touch {tmp_path}/building; exec sleep 987653"])
    running.wait_for("Building the trace viewer in the background")
    poll_until((tmp_path / "building").exists, "the build")
    assert running.interrupt() == 0
    assert not [p for p in psutil.process_iter(["cmdline"]) if "987653" in (p.info["cmdline"] or [])]


def test_a_viewer_that_dies_is_one_line_and_the_demo_goes_on(demo, viewer):
    port = free_port()
    running = demo(ports={"api": port}, viewer=viewer)
    page = link(running.wait_for(f"{UP}\n"))
    assert page.rpartition("/")[2] == re.search(r"The trace (\w{32})", running.output())[1]
    next(p for p in running.offspring() if str(viewer) in p.cmdline()).kill()
    running.wait_for(f"{WITHOUT}trace-viewer has died.")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as response:
        assert response.status == 200
    assert running.interrupt() == 0
    assert running.offspring() == []


@pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine (Debian: apt-get install chromium)")
@pytest.mark.skipif(not trace_viewer.PROGRAM.exists(), reason="no trace viewer built yet (make demo builds it)")
def test_the_page_shows_the_spans_of_the_golden_trace_in_their_order(demo, tmp_path):
    running = demo(viewer=trace_viewer.PROGRAM)
    page = link(running.wait_for(f"{UP}\n"))
    golden = [re.fullmatch(r"( *)(\S.*?) {2,}\S+ +(\S+)", line).groups() for line in GOLDEN_TRACE.splitlines()]

    def shown():
        found = rows(dom(page, tmp_path / "profile"))
        return found if len(found) >= len(golden) else None

    shown = poll_until(shown, f"the spans on {page}", timeout=120)
    assert shown == [(len(indent) // 2 + 1, name, service) for indent, name, service in golden]
    assert running.interrupt() == 0
    assert running.offspring() == []


def link(output):
    """Return the link to the first trace out of what the demo has printed."""
    return re.search(r"\n  (http://127\.0\.0\.1:\d+/traces/\w{32}) ", output)[1]


def dom(url, profile):
    """Return the document at url after its scripts have run, as Chromium has it."""
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --virtual-time-budget=8000 --window-size=1600,900 --dump-dom"
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={profile}", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


def rows(document):
    """Return (level, span, service) of each row of the waterfall, from top to bottom."""
    pattern = r'<tr [^>]*data-span-id.*?aria-level="(\d+)".*?<span [^>]*title="([^"]*)".*?<td [^>]*title="([^"]*)"'
    found = re.findall(pattern, html.unescape(document), re.DOTALL)
    return [(int(level), span, service) for level, span, service in found]
