"""make demo with an account of one's own: whether it accepts what the Collector sends there."""

import json
import os
import re
import socket
import ssl
import time
import urllib.request

from stack import Stack, StackError

EXPORTER = "otlp_grpc/coralogix"
REJECTED = ("Unauthenticated", "PermissionDenied")


def wait_until_accepted(stack: Stack, host: str, timeout: float = 10.0) -> None:
    """Wait until the account's ingress has accepted spans; raises StackError with the reason when it has not.

    timeout: seconds; the exporter waits 5 for a response, and about 5 more until it tries again.
    """
    deadline = time.monotonic() + timeout
    while not accepted(stack):
        stack.check_running()
        reason = failure(stack)
        if any(code in reason for code in REJECTED):
            raise StackError(
                f"{host}:443 rejects spans: {reason}. Is CORALOGIX_PRIVATE_KEY a Send-Your-Data key of this domain?"
            )
        if (found := reason and obstacle(host)) or time.monotonic() > deadline:
            cause = found or reason or "no response so far"
            raise StackError(
                f"{host}:443 can't be reached: {cause}. Is there a network, and is CORALOGIX_DOMAIN right?"
            )
        time.sleep(0.2)


def accepted(stack: Stack) -> int:
    """Return how many spans the Collector's shipped exporter has delivered, of the Collector's own metrics."""
    url = f"http://127.0.0.1:{stack.ports.collector_metrics}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            text = response.read().decode()
    except OSError as error:
        stack.check_running()
        raise StackError(f"{stack.collector.name} does not respond at {url}: {error}") from None
    samples = re.findall(rf'^otelcol_exporter_sent_spans\w*\{{.*exporter="{EXPORTER}".*\}} (\S+)$', text, re.MULTILINE)
    return int(sum(map(float, samples)))


def failure(stack: Stack) -> str:
    """Return the newest error of the shipped exporter in the Collector's log, as "Code: description", or ""."""
    with stack.collector.log_file.open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - 65536))
        lines = log.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        if f'"{EXPORTER}"' in line and '"error": ' in line:
            error = json.loads(line[line.index("{") :])["error"]
            return re.sub(r".*code = (\w+) desc = ", r"\1: ", error)
    return ""


def obstacle(host: str) -> str:
    """Return what is in the way to host:443, or "": for a name nobody knows, gRPC says "no children to pick from"."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return ""  # then the way is the proxy's, and gRPC tells what it responds
    try:
        with socket.create_connection((host, 443), timeout=5) as connection:
            ssl.create_default_context().wrap_socket(connection, server_hostname=host).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
