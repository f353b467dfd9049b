"""The page of make demo: otel-desktop-viewer, built once in the background, fed by the Collector from the start.

Source: https://github.com/CtrlSpice/otel-desktop-viewer
"""

import collections
import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

import shipped
from stack import TOOLS, Child, StackError, free_port

BUILD = [sys.executable, shipped.ROOT / "infrastructure/local/install.py", "viewer"]
PROGRAM = TOOLS / "otel-desktop-viewer"
PAGE_PORT = 8003
MOST_STORED = "128MB"  # the viewer keeps everything in memory; beyond this it drops the oldest


class Feed(grpc.GenericRpcHandler):
    """An OTLP/gRPC server, as a context manager, that takes everything at once and keeps it until next() is called.

    Without it the Collector would have to wait for a viewer that is still being built, and a Collector whose queue to
    one destination is full refuses spans for all of them. Beyond MOST_BYTES the oldest requests are dropped.
    """

    MOST_BYTES = 16 * 1024 * 1024

    def __init__(self):
        self._requests = collections.deque()
        self._bytes = 0
        self._lock = threading.Lock()
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self._server = grpc.server(ThreadPoolExecutor(2), handlers=[self], options=[("grpc.so_reuseport", 0)])
        self._server.add_insecure_port(self.address)

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop(grace=0).wait()

    def service(self, call):
        """Answer every method with an empty message, which is OTLP's full success."""
        return grpc.unary_unary_rpc_method_handler(lambda request, _: self._keep(call.method, request))

    def _keep(self, method, request):
        with self._lock:
            self._requests.append((method, request))
            self._bytes += len(request)
            while self._bytes > self.MOST_BYTES:
                self._bytes -= len(self._requests.popleft()[1])
        return b""

    def next(self):
        """Return the oldest request as (method, bytes), or None."""
        with self._lock:
            if not self._requests:
                return None
            method, request = self._requests.popleft()
            self._bytes -= len(request)
            return method, request


class TraceViewer:
    """Builds the viewer if need be, runs it and hands it what the feed has; a context manager that never raises.

    run_dir: logs go there; trace_id: the trace to link to. page: the viewer's address, or None while it is not up.
    """

    def __init__(self, feed, run_dir, trace_id):
        self.page = None
        self._news = queue.SimpleQueue()
        self._feed, self._run_dir, self._trace_id = feed, run_dir, trace_id
        self._stop = threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._run, name="trace-viewer")
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def news(self):
        """Return the sentences that whoever shows the demo has not got yet."""
        return [self._news.get() for _ in range(self._news.qsize())]

    def _run(self):
        try:
            if not PROGRAM.exists():
                self._build()
            if not self._stop.is_set():
                self._show()
        except (StackError, OSError) as error:
            self._news.put(f"The demo goes on without the trace viewer: {error}")

    def _build(self):
        self._news.put("Building the trace viewer in the background (about three minutes, once) ...")
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
        if builder.returncode:
            raise StackError(log.read_text(errors="replace").strip().rpartition("\n")[2])

    def _show(self):
        page, feed = f"http://127.0.0.1:{page_port()}", free_port()
        command = [PROGRAM, "--host=127.0.0.1", "--open-browser=false", f"--browser-port={page.rpartition(':')[2]}"]
        command += [f"--grpc={feed}", f"--http={free_port()}", f"--db-max-size={MOST_STORED}"]
        viewer = Child("trace-viewer", command, f"{page}/", {}, self._run_dir)
        try:
            viewer.start()
            links = f"{page}/traces/{self._trace_id}", f"{page}/traces", f"{page}/metrics"
            self._news.put("The trace viewer is up:\n\n  {} (the trace above)\n  {}\n  {}\n".format(*links))
            self.page = page
            # 127.0.0.1 is not behind the proxy that the environment may name.
            with grpc.insecure_channel(f"127.0.0.1:{feed}", [("grpc.enable_http_proxy", 0)]) as channel:
                self._forward(viewer, channel)
        finally:
            self.page = None
            viewer.stop()

    def _forward(self, viewer, channel):
        while not self._stop.is_set():
            if not viewer.running():
                raise StackError(f"{viewer.name} has died. {viewer.last_words()}")
            if not (request := self._feed.next()):
                self._stop.wait(0.1)
                continue
            method, content = request
            with contextlib.suppress(grpc.RpcError):  # what it refuses is not on its page
                channel.unary_unary(method)(content, timeout=5, wait_for_ready=True)


def page_port():
    """Return PAGE_PORT, or a free port when something else listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", PAGE_PORT))
            return PAGE_PORT
    return free_port()
