"""The highest rate of requests at which the whole path keeps up, reconciled as in the drills."""

import json
import os
import subprocess
import sys
import time

import psutil

from accounting import Response
from drill import Drill
from measure import TOOLS, cpu_seconds, family, percentile
from parts import PROGRAMS
from stack import Child, Stack, poll_until

CONNECTIONS = 16
FIRST_RATE = 60
BEHIND_SECONDS = 0.5  # responses later than this, or messages left in the queue for longer, do not keep up


class Whole(Stack):
    """The stack with SQS in memory in place of moto."""

    def _moto(self):
        command = [sys.executable, PROGRAMS / "queue_server.py", self.ports.sqs, "queue"]
        return Child("sqs", command, self._sqs_endpoint(), {}, self.run_dir)

    def _create_queues(self):
        return tuple(f"{self._sqs_endpoint()}/queue/{name}" for name in ("cal-onboarding-dlq", "cal-onboarding-queue"))


def run(parts, quick):
    """Return the section: one row for each rate that was tried, and notes."""
    seconds, trial, step = (12, 3, 1.5) if quick else (60, 8, 1.25)
    rows = []
    parts.close()  # this section has a stack of its own
    with Whole(TOOLS / "bench" / "run-whole", max_spans=500_000) as stack:
        drill = Drill(stack, "none")
        send(drill, FIRST_RATE, 2)  # warm
        rate = FIRST_RATE
        while len(rows) < 2 or "yes" in (rows[-1]["kept up"], rows[-2]["kept up"]):
            rows.append(row := send(drill, rate, trial))
            rate *= step if row["kept up"] == "yes" else 1  # once more: others may have been what was in the way
        while (row := send(drill, rate := rate / 1.15, seconds))["kept up"] != "yes":
            rows.append(row)
        rows.append(row)
        total, series = drill.account(), len(stack.ingress.points())
    return {
        "title": f"The whole: the rate that is sustained for {seconds} s, every process on this machine",
        "rows": rows,
        "notes": [
            f"reconciliation: {total.accepted} accepted, {total.processed} processed, {total.ended} spans ended, "
            f"{total.received} received, difference {total.lost}, not in RED {total.uncounted}",
            f"RED metrics: {series} series of all this traffic, each one data point every 15 s as shipped",
            limit(row),
            "SQS is a queue in memory of ours; ingress and event source mapping share one process (stand-ins)",
            "kept up: 99 % responded to within 0.5 s of their time, and less than 0.5 s of messages left at the end",
        ],
        "rounds": 1,
    }


def send(drill, rate, seconds):
    """Send requests at a rate; return a row, and leave the responses in the drill's evidence."""
    stack = drill.stack
    measured = {
        "API": family(stack.api),
        "function": family(stack.function),
        "Collector": family(stack.collector),
        "SQS": family(stack.moto),
        "stand-ins": [psutil.Process(os.getpid())],
    }
    before, began = {name: cpu_seconds(processes) for name, processes in measured.items()}, time.monotonic()
    psutil.cpu_percent()
    command = [sys.executable, PROGRAMS / "driver.py", stack.ports.api, rate, seconds, CONNECTIONS]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    busy, elapsed = psutil.cpu_percent(), time.monotonic() - began
    used = {name: (cpu_seconds(processes) - before[name]) / elapsed for name, processes in measured.items()}
    behind = drill._queued()
    responses = json.loads(done.stdout)
    for late, queued in responses:
        ids = {key: queued[key] for key in ("request_id", "message_id", "trace_id")}
        drill.evidence.responses.append(Response(202, time.monotonic(), late, **ids))
    poll_until(lambda: drill._queued() == 0, "an empty queue", 120)
    late = [seconds for seconds, _ in responses]
    kept_up = percentile(late, 0.99) < BEHIND_SECONDS and behind < rate * BEHIND_SECONDS
    return {
        "requests/s": float(rate),
        "seconds": seconds,
        "kept up": "yes" if kept_up else "no",
        "p50 ms": percentile(late, 0.5) * 1000,
        "p99 ms": percentile(late, 0.99) * 1000,
        "left in the queue": behind,
        **{f"{name}, cores": cores for name, cores in used.items()},
        "machine busy %": busy,
    }


def limit(row):
    """Return a note that says where the processor's time goes."""
    cores = {name.removesuffix(", cores"): value for name, value in row.items() if name.endswith(", cores")}
    most = max(cores, key=cores.get)
    total = sum(cores.values())
    return (
        f"limit: at {row['requests/s']:.0f} requests/s the machine is {row['machine busy %']:.0f} % busy; "
        f"of {total:.2f} cores used by the stack the {most} takes {cores[most]:.2f}; the rest is the load and others"
    )
