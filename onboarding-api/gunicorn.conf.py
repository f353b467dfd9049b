"""gunicorn's settings for the onboarding API; gunicorn reads this file from its working directory by itself."""

import os

bind = "0.0.0.0:8000"
workers = 2
worker_class = "gthread"
threads = 8
worker_tmp_dir = "/dev/shm"  # the task's root file system is read-only
forwarded_allow_ips = ""  # no proxy in front: by default a caller on loopback could set SCRIPT_NAME and the scheme
control_socket_disable = True  # it would be a file in the home directory, read-only as well

_trusted = os.environ.get("TRUST_INCOMING_TRACE_CONTEXT", "false").lower() == "true"
_CONTEXT_HEADERS = {"TRACEPARENT", "TRACESTATE", "BAGGAGE"}


def pre_request(worker, req):
    """Drop a stranger's trace context: its flags could switch tracing off, its baggage would travel on to SQS."""
    if not _trusted:
        req.headers = [(name, value) for name, value in req.headers if name not in _CONTEXT_HEADERS]
