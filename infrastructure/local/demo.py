"""make demo: runs the whole path on this machine and shows its trace, its RED metrics and its log lines."""

# ruff: noqa: E402
# Until main() begins, Ctrl-C while modules are loaded is no traceback; the module signal itself loads many.
import _signal  # type: ignore[import-not-found]

_signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import argparse
import contextlib
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections import Counter

import own_coralogix
import preflight
import shipped
import view
from ingress import Span
from preflight import PreflightError
from stack import TOOLS, Ports, Stack, StackError, interrupt, poll_until
from trace_viewer import Feed, TraceViewer

PORTS = {"api": preflight.API_PORT, "sqs": 9324, "collector": 4317, "health_check": 13133}
REDELIVERY_SECONDS = 5  # the shipped queue's 90 would make a dead letter take eight minutes
RUN_DIR = TOOLS / "run"
GOLDEN_TRACE = (shipped.ROOT / "tests/golden-trace.txt").read_text()


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="send one request, print what came of it, and exit")
    once = parser.parse_args().once
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # started with & it would ignore the first
        signal.signal(number, interrupt)
    for name in ("no_proxy", "NO_PROXY"):  # whatever proxy there is, this machine is not behind it
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))
    try:
        run(once, preflight.account(os.environ))
    except (PreflightError, StackError) as error:
        # Whatever a program has logged last, it does not show the key.
        key = os.environ.get("CORALOGIX_PRIVATE_KEY") or "\n"
        print(f"The demo stopped: {error}".replace(key, "(the key)"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.")
    return 0


def ports() -> Ports:
    """Return the documented ports, with free ones for those in use; raises PreflightError when the API's is in use."""
    wanted = dict(PORTS)
    if "api" in wanted or os.environ.get("PORT"):
        wanted["api"] = preflight.api_port(os.environ, wanted.get("api", preflight.API_PORT))
    found = Ports(**{name: port for name, port in wanted.items() if preflight.is_free(port)})
    for name, port in wanted.items():
        if port != getattr(found, name):
            print(f"Port {port} is in use: {name} is on {getattr(found, name)}.", flush=True)
    return found


def run(once: bool, coralogix: dict[str, str] | None) -> None:
    """Start everything, show one request, and unless once stay up; coralogix: both variables of an account, or None."""
    print("Starting SQS, Collector, Lambda emulator and API ...", flush=True)
    with contextlib.ExitStack() as started:
        feed = None if once else started.enter_context(Feed())
        stack = Stack(
            RUN_DIR,
            ports(),
            visibility_timeout=REDELIVERY_SECONDS,
            coralogix=coralogix,
            viewer_address=feed.address if feed else None,
            api_address=os.environ.get("LISTEN_ADDRESS"),
            max_spans=1000,  # the first request's are shown, later ones only counted
        )
        started.enter_context(stack)
        trace_id = show_one_request(stack)
        show_delivery(stack, coralogix)
        if feed is None:
            sys.stdout.flush()
            stack.kill()  # everything has been shown, so that nothing needs a graceful end
            os._exit(0)
        started.callback(print, "\nStopping ...", flush=True)
        stay(stack, started.enter_context(TraceViewer(feed, RUN_DIR, trace_id)), coralogix)


def show_one_request(stack: Stack) -> str:
    """Send one request, print its response, trace, metrics and log lines as they arrive; return the trace id."""
    path = "/telemetry/smoke"
    response = post(stack.url + path, {"customer_id": "TEST-001"})
    print(f"\nPOST {path} responded 202 {json.dumps(response)}")

    spans = wait_for_trace(stack, response["trace_id"])
    print(f"\nThe trace {response['trace_id']}, as the Coralogix stand-in received it:\n")
    print(view.described(spans))

    print("\nRED metrics, made of the spans by the Collector:\n")
    wait_for_red(stack)
    for title, prefix in (("standard", ""), ("compact", "compact.")):
        print(f"  {title:<18} {'span':<22} {'kind':<9} calls errors  mean ms")
        for row in view.red(stack.ingress.points(), prefix):
            print(f"  {row.service:<18} {row.span:<22} {row.kind:<9} {row.calls:5} {row.errors:6} {row.mean_ms:8.1f}")
        print()

    print("Log lines of the API and the Lambda:\n")
    for child in (stack.api, stack.function):
        print("\n".join(view.ours(child.name, child.log_file.read_text().splitlines())), flush=True)
    return response["trace_id"]


def show_delivery(stack: Stack, coralogix: dict[str, str] | None) -> None:
    """Print that the account has accepted the spans, if there is one; raises StackError when it has not."""
    if coralogix:
        host = f"ingress.{coralogix['CORALOGIX_DOMAIN']}"
        own_coralogix.wait_until_accepted(stack, host)
        print(f"\n{host}:443 has accepted {own_coralogix.accepted(stack)} spans.")


def post(url: str, body: dict[str, str]) -> dict[str, str]:
    """POST body as JSON; return the response's JSON; raises StackError when it is not a 202."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=15) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise StackError(f"the API responded {error.code}: {error.read().decode()}") from error
    except OSError as error:
        raise StackError(f"the API did not respond: {error}") from error


def wait_for_trace(stack: Stack, trace_id: str) -> list[Span]:
    """Return the spans of the trace once it is the golden one; raises StackError with the lines that are missing."""

    def spans() -> list[Span]:
        stack.check_running()
        return view.trace_of(stack.ingress.spans(), trace_id)

    try:
        poll_until(lambda: view.tree(spans()) == GOLDEN_TRACE, "the whole trace")
    except StackError as error:
        received = view.tree(spans()).splitlines()
        missing = [text.strip() for text in GOLDEN_TRACE.splitlines() if text not in received]
        raise StackError(f"{error}; missing at the ingress: {'; '.join(missing)}") from None
    return spans()


def wait_for_red(stack: Stack) -> None:
    """Wait until both sets of metrics have counted every span; raises StackError with those they have not."""
    uncounted: dict[str, Counter[tuple[str, str, str]]] = {}

    def all_counted() -> bool:
        stack.check_running()
        spans, points = stack.ingress.spans(), stack.ingress.points()
        uncounted.update(
            standard=Counter((span.service, span.name, span.kind) for span in spans) - calls(view.red(points)),
            compact=Counter((span.service, "", span.kind) for span in spans) - calls(view.red(points, "compact.")),
        )
        return not any(uncounted.values())

    try:
        poll_until(all_counted, "the RED metrics")
    except StackError as error:
        raise StackError(f"{error}; spans without a call counted: {uncounted}") from None


def calls(rows: list[view.RedRow]) -> Counter[tuple[str, str, str]]:
    """Return {(service, span name, kind): calls} of RedRows."""
    return Counter({(row.service, row.span, row.kind): row.calls for row in rows})


def stay(stack: Stack, viewer: TraceViewer, coralogix: dict[str, str] | None) -> None:
    """Say how to go on, then show what happens until Ctrl-C; raises StackError when a process dies."""
    import live  # here, because what draws the screen takes a while to load and ONCE has none

    accepted = (lambda: own_coralogix.accepted(stack)) if coralogix else None
    live.follow(live.Source(stack, viewer, accepted))


if __name__ == "__main__":
    sys.exit(main())
