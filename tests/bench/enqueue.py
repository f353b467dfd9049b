"""What tracing costs one message on its way to SQS, without anything around it."""

import shipped
from measure import difference, environment_of, installed, ratio, rotated
from parts import PROGRAMS, Worker, with_bin

BASELINE = "send_message alone"
SIZES = (1, 10)  # messages in a call
VARIANTS = {  # name: environment of packages, started by opentelemetry-instrument, send.py's argument
    BASELINE: ("api", False, "alone"),
    "this demo": ("api", True, "ours"),
    "botocore instrumentation alone": ("api", True, "alone"),
    "boto3sqs instrumentation": ("boto3sqs", True, "alone"),
}


def run(parts, quick):
    """Return the section: rows of the table, and notes."""
    rounds, messages = (5, 100) if quick else (8, 800)
    found, notes = installed({packages for packages, *_ in VARIANTS.values()})
    every = {name: variant for name, variant in VARIANTS.items() if variant[0] in found}
    measured = [one_round(parts, every, turn, messages) for turn in range(rounds)]
    return {
        "title": "Enqueue: CPU per message, as a ratio to the same call without telemetry",
        "rows": [row(name, measured) for name in every],
        "notes": notes
        + [f"{name}: {recorded(measured[0][name]['spans'])}" for name in every]
        + ["1: SendMessage; 10: SendMessageBatch of ten, for each message; x one: 10 as a ratio to its own 1"],
        "rounds": rounds,
        "messages_per_round": messages,
    }


def worker(parts, name, packages, is_traced, argument):
    """Return a started Worker."""
    bin_directory = environment_of(packages)
    environment = parts.api_environment() | {"PYTHONPATH": str(shipped.ROOT / "onboarding-api")}
    command = [bin_directory / "python", PROGRAMS / "send.py", argument]
    if is_traced:
        command.insert(0, bin_directory / "opentelemetry-instrument")
    return Worker(name.replace(" ", "-"), command, with_bin(environment, bin_directory), parts.run_dir)


def one_round(parts, every, turn, messages):
    """Return {name: {size: CPU seconds per message, "spans": {name: spans per message}}} of fresh processes."""
    workers = {name: worker(parts, name, *every[name]) for name in rotated(every, turn)}
    results = {name: {} for name in workers}
    try:
        for each in workers.values():
            each.ask(1, 20)  # warm
        for size in SIZES:
            for name, each in workers.items():
                results[name][size] = each.ask(size, messages // size)["cpu"] / messages
        for name, each in workers.items():
            if not turn:
                parts.wait_for_quiet()
                parts.ask_sinks("forget")
                each.ask(1, 10)
                counts = parts.wait_for_quiet().values()
                results[name]["spans"] = {n: times / 10 for found in counts for n, times in found["names"].items()}
    finally:
        for each in workers.values():
            each.stop()
    return results


def row(name, measured):
    """Return one row."""
    mine, base = ({s: [r[who][s] for r in measured] for s in SIZES} for who in (name, BASELINE))
    return {
        "variant": name,
        "1": ratio(mine[1], base[1]),
        "10": ratio(mine[10], base[10]),
        "1, more us": difference(mine[1], base[1], 1e6),
        "10, more us": difference(mine[10], base[10], 1e6),
        "x one": ratio(mine[10], mine[1]),
    }


def recorded(names):
    """Return what the sinks got for one message."""
    return ", ".join(f"{times:g} {name}" for name, times in names.items()) or "nothing is recorded"
