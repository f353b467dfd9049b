"""What tracing costs the Lambda, beside what other people would trace it with."""

import contextlib
import os
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import shipped
from measure import BENCH, difference, environment_of, installed, ratio, resident_mib, rotated
from parts import PROGRAMS, Worker, with_bin
from proxy import unreachable_port
from stack import free_port

BASELINE, OURS, BARE = "no telemetry", "this demo", "bare Python"
SIZES = (1, 5, 10, 100)  # records in a batch
COUNTED = 5  # records in a batch of which the sinks' counts are shown
UDP = "sends by UDP and waits for nobody; its spans do not join the request's trace"


class Variant(NamedTuple):
    """One way to trace the function: environment of packages, module, its folder, and a remark."""

    packages: str
    module: str
    remark: str = ""
    directory: object = BENCH / "functions"


VARIANTS = {
    BASELINE: Variant("lambda", "untraced"),
    OURS: Variant("lambda", "app", directory=shipped.ROOT / "onboarding-lambda"),
    "same spans with the stock exporter": Variant("aws-lambda", "stock", "telemetry.py and app.py as shipped"),
    "stock SDK, a span for each record": Variant("aws-lambda", "basic", "two attributes, no links"),
    "aws-lambda instrumentation": Variant("aws-lambda", "aws_lambda", "the invocation only"),
    "Powertools Tracer": Variant("powertools", "powertools", UDP),
    "AWS X-Ray SDK": Variant("xray", "xray", UDP),
}


def run(parts, quick):
    """Return the section: rows of the table, and notes."""
    rounds, records, starts = (5, 100, 5) if quick else (8, 600, 16)
    found, notes = installed({variant.packages for variant in VARIANTS.values()})
    every = {name: variant for name, variant in VARIANTS.items() if variant.packages in found}
    with outages(parts, every) as waiting:
        begun = [start_times(parts, every, turn) for turn in range(starts)]
        measured = [one_round(parts, every, turn, records) for turn in range(rounds)]
        waits = {name: {what: f.result() for what, f in futures.items()} for name, futures in waiting.items()}
    return {
        "title": "Lambda: start over bare Python, and CPU per record over the same function without telemetry",
        "rows": [row(name, begun, measured, waits) for name in every],
        "notes": notes
        + [f"{name}: {recorded(name, variant, measured[0])}" for name, variant in every.items()]
        + [
            "us per record: CPU over no telemetry, flush to a live Collector included, in batches of 1, 5, 10 and 100",
            "x batch 10: CPU of an invocation with 10 records as a ratio to no telemetry",
            "refused, black hole: seconds of three invocations one after the other, Collector not there",
        ],
        "rounds": rounds,
        "records_per_round": records,
    }


def environment(parts, variant, endpoint=None):
    """Return the variables of a variant, as Lambda would set them."""
    function = shipped.read_json("lambda.json")
    return with_bin(
        shipped.lambda_environment(parts.variables)
        | {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint or parts.collector_url,
            "AWS_REGION": "us-east-1",
            "AWS_LAMBDA_FUNCTION_NAME": function["FunctionName"],
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function["MemorySize"]),
            "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]0123456789abcdef",
            "LAMBDA_TASK_ROOT": "/var/task",
            "_X_AMZN_TRACE_ID": "Root=1-00000001-000000000000000000000001;Parent=0000000000000001;Sampled=1",
            "AWS_XRAY_DAEMON_ADDRESS": f"127.0.0.1:{parts.xray_port}",
            "POWERTOOLS_SERVICE_NAME": "onboarding-lambda",
            "PYTHONPATH": os.pathsep.join([str(variant.directory), str(shipped.ROOT / "tests/support")]),
        },
        environment_of(variant.packages),
    )


def start_times(parts, every, turn):
    """Return {name: (CPU seconds, seconds)} of processes that import and initialise, and of one that does not."""
    programs = {BARE: (every[BASELINE], "import os")}
    programs |= {name: (variant, f"import os, {variant.module}") for name, variant in every.items()}
    return {name: start_time(parts, *programs[name]) for name in rotated(programs, turn)}


def start_time(parts, variant, program):
    """Return (CPU seconds, seconds) of a new process; it skips what only happens at exit."""
    command = [environment_of(variant.packages) / "python", "-c", f"{program}; os._exit(0)"]
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment(parts, variant))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{program} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - began


def worker(parts, name, variant, endpoint=None):
    """Return a started Worker."""
    command = [environment_of(variant.packages) / "python", PROGRAMS / "invoke.py", variant.module]
    return Worker(name.replace(" ", "-"), command, environment(parts, variant, endpoint), parts.run_dir)


def one_round(parts, every, turn, records):
    """Return {name: {size: {"cpu": seconds per record, "seconds": [...]}, ...}} of fresh processes."""
    workers = {name: worker(parts, name, every[name]) for name in rotated(every, turn)}
    results = {name: {} for name in workers}
    try:
        for each in workers.values():
            each.ask(10, 20)  # warm
        for size in SIZES:
            invocations = max(records // size, 4)
            for name, each in workers.items():
                result = each.ask(size, invocations)
                result["cpu"] /= size * invocations
                results[name][size] = result
        for name, each in workers.items():
            results[name]["memory"] = resident_mib([each.process])
            if not turn:
                parts.wait_for_quiet()
                parts.ask_sinks("forget")
                each.ask(COUNTED, 10)
                results[name]["spans"] = parts.wait_for_quiet()
    finally:
        for each in workers.values():
            each.stop()
    return results


@contextlib.contextmanager
def outages(parts, every):
    """Give {name: {outage: future of the seconds of each invocation}}; they run beside the rest, for they only wait."""
    with unreachable_port() as black_hole, ThreadPoolExecutor(2 * len(every)) as pool:
        endpoints = {"refused": f"http://127.0.0.1:{free_port()}", "black hole": f"http://127.0.0.1:{black_hole}"}
        yield {
            name: {what: pool.submit(wait, parts, name, every[name], endpoint) for what, endpoint in endpoints.items()}
            for name in every
        }


def wait(parts, name, variant, endpoint):
    """Return how long each of three invocations takes."""
    started = worker(parts, name, variant, endpoint)
    try:
        return started.ask(5, 3)["seconds"]
    finally:
        started.stop()


def row(name, begun, measured, waits):
    """Return one row."""
    cells = {"variant": name}
    for what, index in (("start CPU ms", 0), ("start ms", 1)):
        cells[what] = difference([r[name][index] for r in begun], [r[BARE][index] for r in begun], 1000)
    mine, base = ({s: [r[who][s]["cpu"] for r in measured] for s in SIZES} for who in (name, BASELINE))
    for size in SIZES:
        cells[f"us/record, {size}"] = difference(mine[size], base[size], 1e6)
    cells["x batch 10"] = ratio(mine[10], base[10])
    live = [second for result in measured for second in result[name][5]["seconds"]]
    cells["live ms"] = statistics.median(live) * 1000
    for outage, seconds in waits[name].items():
        cells[f"{outage} s"] = " ".join(f"{second:.2g}" if second > 0.1 else "0" for second in seconds)
    return cells | {"memory MiB": statistics.fmean(result[name]["memory"] for result in measured)}


def recorded(name, variant, results):
    """Return what the sinks got for one invocation with COUNTED records."""
    counts = results[name]["spans"].values()
    names = {each: times / 10 for found in counts for each, times in found["names"].items()}
    if not names:
        return "nothing is recorded"
    remark = f" ({variant.remark})" if variant.remark else ""
    listed = ", ".join(f"{times:g} {each}" for each, times in names.items())
    return f"{listed} for an invocation with {COUNTED} records{remark}"
