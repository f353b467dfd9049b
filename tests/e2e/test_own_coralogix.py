"""make demo with an account of one's own: the shipped exporter, untouched, over TLS to a stand-in that it has to trust.

The shipped address is ingress.DOMAIN:443. Here nothing listens there, so the way leads through a proxy, which the
exporter asks for that very name and port, as it would in a company's network.
"""

import re
import socket
import socketserver
import threading

import pytest

import own_coralogix
import preflight
import shipped
import view
from ingress import Ingress
from stack import Stack, StackError, free_port, poll_until

GOLDEN_TRACE = (shipped.ROOT / "tests/golden-trace.txt").read_text()
DOMAIN, KEY = "coralogix.example", "a-key-of-my-own"
HOST = f"ingress.{DOMAIN}"


class Proxy(socketserver.ThreadingTCPServer):
    """An HTTPS proxy that leads every CONNECT to one port of this machine; asked: the addresses it was asked for."""

    daemon_threads = True

    def __init__(self, port):
        super().__init__(("127.0.0.1", 0), Tunnel)
        self.port, self.asked = port, set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Tunnel(socketserver.StreamRequestHandler):
    """One CONNECT: https://www.rfc-editor.org/rfc/rfc9110#CONNECT."""

    def handle(self):
        """Accept it, and then carry bytes both ways until one side ends."""
        self.server.asked.add(self.rfile.readline().split()[1].decode())
        while self.rfile.readline().strip():
            pass
        with socket.create_connection(("127.0.0.1", self.server.port)) as ingress:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            threading.Thread(target=carry, args=(ingress, self.connection), daemon=True).start()
            carry(self.connection, ingress)


def carry(source, target):
    """Copy bytes until there are no more."""
    try:
        while content := source.recv(65536):
            target.sendall(content)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other direction has closed it


@pytest.fixture
def coralogix(tmp_path):
    """A second ingress, under a certificate of its own for the account's host."""
    with Ingress(port := free_port(), KEY, HOST, tmp_path / "coralogix.pem") as ingress:
        ingress.port = port
        yield ingress


@pytest.fixture
def proxy(coralogix):
    """The way to the second ingress."""
    with Proxy(coralogix.port) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def variables(tmp_path, proxy):
    """What somebody with an account behind a proxy has in the environment."""
    return {
        "CORALOGIX_DOMAIN": DOMAIN,
        "CORALOGIX_PRIVATE_KEY": KEY,
        "HTTPS_PROXY": proxy.url,
        "SSL_CERT_FILE": str(tmp_path / "coralogix.pem"),
    }


def test_the_account_gets_every_span_and_metric_and_the_terminal_shows_them_too(demo, coralogix, proxy, variables):
    running = demo("--once", **variables)
    assert running.ended() == 0, running.output()
    output = running.output()
    for line in GOLDEN_TRACE.splitlines():
        assert f"\n  {line}" in output
    assert re.search(rf"\n{HOST}:443 has accepted [1-5] spans\.", output)
    trace_id = re.search(r"The trace (\w{32})", output)[1]
    assert view.tree(view.trace_of(coralogix.spans(), trace_id)) == GOLDEN_TRACE
    poll_until(lambda: {"calls", "compact.calls"} <= {point.name for point in coralogix.points()}, "the RED metrics")
    assert proxy.asked == {f"{HOST}:443"}
    assert_no_key(running)


def test_the_live_view_counts_what_the_account_accepts(demo, coralogix, variables):
    running = demo(**variables)
    running.wait_for("The demo stays up until Ctrl-C")
    running.wait_for("5 spans accepted by Coralogix")
    assert running.interrupt() == 0
    assert_no_key(running)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (
            {"CORALOGIX_PRIVATE_KEY": "not-the-key"},
            r"rejects spans: Unauthenticated: .* Is CORALOGIX_PRIVATE_KEY a ",
        ),
        ({"SSL_CERT_FILE": "/dev/null"}, "can't be reached: .*certificate"),
        ({"HTTPS_PROXY": "http://127.0.0.1:9"}, "can't be reached: .*connection refused"),
        ({"HTTPS_PROXY": ""}, r"can't be reached: .*name resolution|can't be reached: .*[Nn]ame.* not known"),
    ],
    ids=["wrong key", "certificate of an unknown authority", "no network", "no such name"],
)
def test_what_is_wrong_is_said_and_the_key_never(demo, variables, change, cause):
    running = demo("--once", **variables | change)
    assert running.ended() == 1
    last = running.output().splitlines()[-1]
    assert last.startswith(f"The demo stopped: {HOST}:443 ")
    assert re.search(cause, last), last
    assert_no_key(running, (variables | change)["CORALOGIX_PRIVATE_KEY"])
    assert running.offspring() == []


@pytest.mark.parametrize(
    ("there", "missing"),
    [("CORALOGIX_DOMAIN", "CORALOGIX_PRIVATE_KEY"), ("CORALOGIX_PRIVATE_KEY", "CORALOGIX_DOMAIN")],
)
@pytest.mark.parametrize("empty", [False, True], ids=["missing", "empty"])
def test_one_variable_without_the_other_is_an_error_that_names_the_other(demo, there, missing, empty):
    running = demo("--once", **{there: "value"}, **({missing: ""} if empty else {}))
    assert running.ended() == 1
    assert running.output() == (
        f"The demo stopped: {there} is set and {missing} is not: set both to send to your Coralogix, or none of them\n"
    )


def test_neither_variable_means_no_account():
    assert preflight.account({"CORALOGIX_DOMAIN": "", "CORALOGIX_PRIVATE_KEY": ""}) is None


def test_the_tests_ignore_an_account_in_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("CORALOGIX_DOMAIN", DOMAIN)
    monkeypatch.setenv("CORALOGIX_PRIVATE_KEY", KEY)
    with Stack(tmp_path / "run") as stack:
        assert stack.collector.environment["CORALOGIX_DOMAIN"] == "coralogix.invalid"
        assert KEY not in stack.collector.environment.values()


def test_a_collector_that_does_not_respond_is_named(stack, monkeypatch):
    monkeypatch.setattr(stack.ports, "collector_metrics", free_port())
    with pytest.raises(StackError, match="otel-collector does not respond"):
        own_coralogix.accepted(stack)


def assert_no_key(running, key=KEY):
    """Check that neither the demo nor any program it has started has written the key anywhere."""
    assert key not in running.output()
    for path in running.run_dir.iterdir():
        assert key.encode() not in path.read_bytes(), path
