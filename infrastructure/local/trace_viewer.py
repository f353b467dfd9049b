"""The page of make demo: otel-desktop-viewer, built once in the background, fed by the Collector from the start.

Source: https://github.com/CtrlSpice/otel-desktop-viewer
"""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

import preflight
import shipped
from stack import TOOLS, Child, StackError, free_port

BUILD: list[str | Path] = [sys.executable, shipped.ROOT / "infrastructure/local/install.py", "viewer"]
PROGRAM = TOOLS / "otel-desktop-viewer"
ADDRESS = os.environ.get("LISTEN_ADDRESS") or "127.0.0.1"  # a container's image says 0.0.0.0
PAGE_PORT = int(os.environ.get("VIEWER_PORT") or 8003)
MAX_STORED = "256MB"  # an hour of the traffic script takes about 200; beyond it the oldest are dropped


class Feed(grpc.GenericRpcHandler):
    """An OTLP/gRPC server, as a context manager, that takes everything at once and keeps it until next() is called.

    Without it the Collector would have to wait for a viewer that is still being built, and a Collector whose queue to
    one destination is full refuses spans for all of them. Beyond MAX_BYTES the oldest requests are dropped.
    """

    MAX_BYTES = 16 * 1024 * 1024

    def __init__(self) -> None:
        self._requests: collections.deque[tuple[str, bytes]] = collections.deque()
        self._bytes = 0
        self._arrived = threading.Condition()
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self._server = grpc.server(ThreadPoolExecutor(2), handlers=[self], options=[("grpc.so_reuseport", 0)])
        self._server.add_insecure_port(self.address)

    def __enter__(self) -> Feed:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=0).wait()

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Respond to every method with an empty message, which is OTLP's full success."""
        return grpc.unary_unary_rpc_method_handler(lambda request, _: self._keep(call.method, request))

    def _keep(self, method: str, request: bytes) -> bytes:
        with self._arrived:
            self._requests.append((method, request))
            self._bytes += len(request)
            while self._bytes > self.MAX_BYTES:
                self._bytes -= len(self._requests.popleft()[1])
            self._arrived.notify()
        return b""

    def next(self, timeout: float = 0.0) -> tuple[str, bytes] | None:
        """Return the oldest request as (method, bytes), or None when there is none for timeout seconds."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._requests, timeout):
                return None
            method, request = self._requests.popleft()
            self._bytes -= len(request)
            return method, request


class TraceViewer:
    """Builds the viewer if need be, runs it and hands it what the feed has; a context manager that never raises.

    run_dir: logs go there; trace_id: the trace to link to. page: the viewer's address, or None while it is not up.
    """

    def __init__(self, feed: Feed, run_dir: Path, trace_id: str) -> None:
        self.page: str | None = None
        self._state = "starting"
        self._building_since: float | None = None
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._feed, self._run_dir, self._trace_id = feed, run_dir, trace_id
        self._stop = threading.Event()

    def __enter__(self) -> TraceViewer:
        self._thread = threading.Thread(target=self._run, name="trace-viewer")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def state(self, trace_id: str) -> str:
        """Return how far it is, or where it shows a trace."""
        if self.page:
            return f"{self.page}/traces/{trace_id}"
        if self._building_since is not None:
            seconds = int(time.monotonic() - self._building_since)
            return f"building, {seconds // 60}:{seconds % 60:02}, once"
        return self._state

    def news(self) -> list[str]:
        """Return the messages that whoever shows the demo has not got yet."""
        return [self._news.get() for _ in range(self._news.qsize())]

    def _run(self) -> None:
        try:
            if not PROGRAM.exists():
                self._build()
            if not self._stop.is_set():
                self._show()
        except (StackError, OSError) as error:
            self._state = f"none: {error}"
            self._news.put(f"The demo goes on without the trace viewer: {error}")

    def _build(self) -> None:
        self._news.put("Building the trace viewer in the background (about three minutes, once) ...")
        self._building_since = time.monotonic()
        log = self._run_dir / "trace-viewer-build.log"
        with log.open("wb") as output:
            builder = subprocess.Popen(
                BUILD, cwd=shipped.ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        while builder.poll() is None:
            if self._stop.wait(0.1):
                os.killpg(builder.pid, signal.SIGTERM)
                builder.wait()
                return
        self._building_since = None
        if builder.returncode:
            raise StackError(log.read_text(errors="replace").strip().rpartition("\n")[2])

    def _show(self) -> None:
        page, feed = f"http://127.0.0.1:{page_port()}", free_port()
        command = [PROGRAM, f"--host={ADDRESS}", "--open-browser=false", f"--browser-port={page.rpartition(':')[2]}"]
        command += [f"--grpc={feed}", f"--http={free_port()}", f"--db-max-size={MAX_STORED}"]
        viewer = Child("trace-viewer", command, f"{page}/", {}, self._run_dir)
        try:
            viewer.start()
            links = f"{page}/traces/{self._trace_id}", f"{page}/traces"
            self._news.put("The trace viewer is up:\n\n  {} (the trace above)\n  {}\n".format(*links))
            self.page = page
            # 127.0.0.1 is not behind the proxy that the environment may name.
            with grpc.insecure_channel(f"127.0.0.1:{feed}", [("grpc.enable_http_proxy", 0)]) as channel:
                self._forward(viewer, channel)
        finally:
            self.page = None
            viewer.stop()

    def _forward(self, viewer: Child, channel: grpc.Channel) -> None:
        while not self._stop.is_set():
            if not viewer.running():
                raise StackError(f"{viewer.name} has died. {viewer.last_words()}")
            if not (request := self._feed.next(timeout=0.5)):
                continue
            method, content = request
            with contextlib.suppress(grpc.RpcError):  # what it refuses is not on its page
                channel.unary_unary(method, bytes, bytes)(content, timeout=5, wait_for_ready=True)


def page_port() -> int:
    """Return PAGE_PORT, or a free port when something else listens there."""
    return PAGE_PORT if preflight.is_free(PAGE_PORT) else free_port()
