"""What the containers of compose.yaml run that stand in for something: containers.py PROGRAM.

ingress: Coralogix, and the terminal: prints each trace when it is whole, and the RED metrics when they have changed;
event-source-mapping: delivers; ready: says what to type.
"""

from __future__ import annotations

import collections
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

import preflight
import shipped
import view

if TYPE_CHECKING:
    from rich.console import Console

    from ingress import Ingress

LOCAL = Path(__file__).parent
STAND_IN_DOMAIN, STAND_IN_KEY = "coralogix.invalid", "local-stand-in-key"
REDELIVERY_SECONDS = 5  # as in make demo
RED_EVERY = 30  # seconds


def ingress() -> None:
    """Write what the Collector reads besides its own configuration, then listen and print."""
    from rich.console import Console

    from ingress import Ingress

    account = preflight.account(os.environ)
    shared = Path(os.environ["SHARED_FOLDER"])
    write_overlays(shared, account is not None)
    host = f"ingress.{STAND_IN_DOMAIN}"
    with Ingress(4317, STAND_IN_KEY, host, shared / "ca.pem", max_spans=1000, address="0.0.0.0") as running:
        show(running, Console(width=100))


def write_overlays(folder: Path, own_coralogix: bool) -> None:
    """Write the overlays into a folder that the Collector has, too: a bind mount would keep the umask of the host."""
    destination = "own-coralogix" if own_coralogix else "stand-in"
    shutil.copyfile(LOCAL / f"{destination}-overlay.yaml", folder / "destination.yaml")
    shutil.copyfile(LOCAL / "viewer-overlay.yaml", folder / "viewer.yaml")
    pipelines = shipped.pipelines_with(["otlp_grpc/stand-in"] if own_coralogix else [], ["otlp_grpc/viewer"])
    if not own_coralogix:  # INFO names a Coralogix that is out of reach; WARN only ten minutes later
        pipelines["service"]["telemetry"] = {"logs": {"level": "WARN"}}
    (folder / "pipelines.yaml").write_text(yaml.safe_dump(pipelines))


def show(ingress: Ingress, console: Console) -> None:
    """Print each trace that has got no span for two seconds, and RED at most every RED_EVERY seconds."""
    import live

    red, printed = live.RedTotals(), time.monotonic()
    before: Mapping[str, int] = {}
    shown: dict[str, int] = {}
    while True:
        spans, calls = ingress.spans(), [row[3] for row in red.rows()]
        now = collections.Counter(span.trace_id for span in spans)
        for trace_id in settled(now, before, shown):
            shown[trace_id] = now[trace_id]
            trace = view.trace_of(spans, trace_id)
            if view.is_request(trace):  # each invocation of the function is a trace of its own
                print(f"\nThe trace {trace_id}:\n\n{view.described(trace)}", flush=True)
        before, shown = now, {trace_id: shown[trace_id] for trace_id in shown if trace_id in now}
        if time.monotonic() - printed >= RED_EVERY:
            printed = time.monotonic()
            red.update(ingress.points(), printed)
            if [row[3] for row in red.rows()] != calls:
                console.print("", live.red_table(red.rows()))
        time.sleep(2)


def settled(now: Mapping[str, int], before: Mapping[str, int], shown: Mapping[str, int]) -> list[str]:
    """Return the traces that have as many spans now as before, and more than shown; each a {trace id: spans}."""
    return [trace_id for trace_id, count in now.items() if before.get(trace_id) == count > shown.get(trace_id, 0)]


def event_source_mapping() -> None:
    """Create the queues and deliver; botocore reads SQS's address and keys from the environment."""
    from event_source_mapping import EventSourceMapping, create_queues, sqs_client

    logging.basicConfig()
    sqs = sqs_client(os.environ["AWS_REGION"])
    _, queue_url = create_queues(sqs, REDELIVERY_SECONDS)
    batch_size = shipped.read_json("event-source-mapping.json")["BatchSize"]
    # In this thread, so that whatever ends the delivery ends the container.
    EventSourceMapping(sqs, queue_url, os.environ["INVOKE_URL"], batch_size).run()


def ready() -> None:
    """Say what to type, and stay: it starts when the API is healthy, and --wait takes an end for a failure."""
    port = os.environ["PORT"]
    print(
        f"ready: curl http://127.0.0.1:{port}/telemetry/smoke -H 'Content-Type: application/json'"
        """ -d '{"customer_id":"TEST-001"}'""",
        f"       traces: http://127.0.0.1:{os.environ['VIEWER_PORT']}/traces",
        sep="\n",
        flush=True,
    )
    signal.pause()


PROGRAMS = {
    "ingress": ingress,
    "event-source-mapping": event_source_mapping,
    "ready": ready,
}


def main() -> int:
    """Run a program; return the exit status."""
    if len(sys.argv) != 2 or sys.argv[1] not in PROGRAMS:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        PROGRAMS[sys.argv[1]]()
    except preflight.PreflightError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
