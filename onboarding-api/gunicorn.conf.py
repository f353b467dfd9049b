"""gunicorn's settings for the onboarding API; gunicorn reads this file from its working directory by itself."""

import functools
import importlib
import logging
import os
import time
from contextlib import suppress
from typing import Any

gthread: Any = importlib.import_module("gunicorn.workers.gthread")  # untyped: what is changed below is no setting
bind = "0.0.0.0:8000"
workers = 2
worker_class = "gthread"
threads = 80  # in each worker: so many callers may be slow at once before others wait
worker_connections = 800  # in each worker: below the 1024 open files that a process may have
keepalive = 75  # seconds, longer than a load balancer's 60; an idle connection holds no thread
worker_tmp_dir = "/dev/shm"  # the task's root file system is read-only
forwarded_allow_ips = ""  # no proxy in front: by default a caller on loopback could set SCRIPT_NAME and the scheme
control_socket_disable = True  # it would be a file in the home directory, read-only as well


def _receive(unreader: Any, size_hint: int | None = None) -> Any:
    ends = vars(unreader).setdefault("ends", time.monotonic() + 15)  # seconds from a request's first byte to its last
    unreader.sock.settimeout(max(ends - time.monotonic(), 0.001))
    return unreader.sock.recv(65536)


gthread.http.unreader.SocketUnreader.chunk = _receive  # gunicorn's own waits for ever
gthread.DEFAULT_WORKER_DATA_TIMEOUT = 0.5  # seconds that a new connection holds a thread before it says a word
gthread.util.close_graceful = functools.partial(gthread.util.close_graceful, timeout=0.02)  # it blocks accept
logging.getLogger("gunicorn.error").addFilter(lambda line: not str(line.msg).startswith(("Invalid req", "Socket err")))
_trusted = os.environ.get("TRUST_INCOMING_TRACE_CONTEXT", "false").lower() == "true"


def pre_request(worker: Any, req: Any) -> None:
    """Drop an untrusted caller's trace context: its flags could switch tracing off, its baggage would reach SQS."""
    req.headers = [pair for pair in req.headers if _trusted or pair[0] not in ("TRACEPARENT", "TRACESTATE", "BAGGAGE")]


def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
    """Read what is left of the body, at most 10 MiB, or have the connection closed: the next request is behind it."""
    with suppress(gthread.http.errors.ParseException, OSError):  # the body is marked as failed then
        req.body.failed |= all(req.body.read(65536) for _ in range(161))
    vars(req.unreader).pop("ends", None)
