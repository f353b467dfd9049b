"""What tracing costs the API, beside what other people would trace it with."""

import signal
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import shipped
from measure import cpu_seconds, environment_of, family, installed, percentile, ratio, resident_mib, rotated
from parts import PROGRAMS, with_bin
from programs.driver import SMOKE, THIN, in_a_loop
from proxy import unreachable_port
from stack import Child, free_port

BASELINE, OURS, BLACK_HOLE = "no telemetry", "this demo", "this demo, Collector black-holed"

SILENT_ABOUT_HEALTH = (OURS, "sentry-sdk")  # ours leaves /health out; sentry-sdk leaves HEAD out

WARM_UP = 64  # requests


class Variant(NamedTuple):
    """One way to run the API: environment of packages, start command, variables, and its name at the sinks."""

    packages: str
    command: list
    variables: dict
    reporter: str = ""
    remark: str = ""


def variants(parts, black_hole):
    """Return {name: Variant}."""
    command = [word.replace("app:", "routes:") for word in shipped.start_command("onboarding-api/Dockerfile")]
    ours = parts.api_environment()
    plain = {name: value for name, value in ours.items() if not name.startswith("OTEL_")}
    sinks = f"127.0.0.1:{parts.sinks_port}"
    wrapped = {name: ["gunicorn", f"routes:{name}()"] for name in ("xray", "elastic_apm", "sentry")}
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": parts.collector_url}
    elastic = {"ELASTIC_APM_SERVER_URL": f"http://{sinks}", "ELASTIC_APM_API_REQUEST_TIME": "1s"}
    return {
        BASELINE: Variant("api", command[1:], plain),
        OURS: Variant("api", command, ours, "onboarding-api"),
        "opentelemetry-instrument alone": Variant(
            "api",
            command,
            plain | endpoint,
            "unknown_service",
            "its metrics and logs are refused",
        ),
        "AWS X-Ray SDK": Variant(
            "xray", wrapped["xray"], plain | {"AWS_XRAY_DAEMON_ADDRESS": f"127.0.0.1:{parts.xray_port}"}, "xray"
        ),
        "elastic-apm": Variant("elastic-apm", wrapped["elastic_apm"], plain | elastic, "elastic"),
        "ddtrace": Variant(
            "ddtrace", ["ddtrace-run", *command[1:]], plain | {"DD_TRACE_AGENT_URL": f"http://{sinks}"}, "datadog"
        ),
        "sentry-sdk": Variant("sentry", wrapped["sentry"], plain | {"SENTRY_DSN": f"http://key@{sinks}/1"}, "sentry"),
        BLACK_HOLE: Variant("api", command, ours | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{black_hole}"}),
    }


class Running:
    """A variant that has been started, and what was measured of it."""

    def __init__(self, name, variant, run_dir):
        self.name, self.variant, self.port = name, variant, free_port()
        environment = with_bin({**variant.variables, "PYTHONPATH": str(PROGRAMS)}, environment_of(variant.packages))
        command = [*variant.command, "--bind", f"127.0.0.1:{self.port}"]
        url, cwd = f"http://127.0.0.1:{self.port}/health", shipped.ROOT / "onboarding-api"
        self.child = Child(name.replace(" ", "-"), command, url, environment, run_dir, cwd)
        self.cpu, self.seconds = [], []

    def warm_up(self):
        """Let both workers load and cache what their first requests need."""
        self.child.start()
        for request in (SMOKE, THIN):
            in_a_loop(self.port, request, WARM_UP // 2, 8)
        self.processes = family(self.child)

    def send(self, request, count):
        """Send requests and note how long each took."""
        self.seconds += in_a_loop(self.port, request, count)


def run(parts, quick):
    """Return the section: rows of the table, and notes."""
    rounds, passes, count = (5, 1, 80) if quick else (7, 4, 100)
    with unreachable_port() as black_hole:
        every = variants(parts, black_hole)
        found, notes = installed({variant.packages for variant in every.values()})
        every = {name: variant for name, variant in every.items() if variant.packages in found}
        measured = {name: [] for name in every}
        for turn in range(rounds):
            for name, result in one_round(parts, every, turn, passes, count).items():
                measured[name].append(result)
    return {
        "title": "API: gunicorn as shipped, CPU per request as a ratio to the same application without telemetry",
        "rows": [row(name, results, measured[BASELINE]) for name, results in measured.items()],
        "notes": notes + [recorded(name, every[name], results[-1]) for name, results in measured.items()],
        "rounds": rounds,
        "requests_per_round": passes * count,
    }


def one_round(parts, every, turn, passes, count):
    """Return {name: {route: {"cpu": seconds per request, "seconds": [...]}, ...}} of fresh processes."""
    running = [Running(name, every[name], parts.run_dir) for name in rotated(every, turn)]
    results = {variant.name: {} for variant in running}
    parts.ask_sinks("forget")
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(Running.warm_up, running))
        settle(parts, running, WARM_UP, 1)  # the one to /health that said it was ready
        for route, request in (("smoke", SMOKE), ("thin", THIN)):
            parts.ask_sinks("forget")
            before = [cpu_seconds(variant.processes) for variant in running]
            for _ in range(passes):
                for variant in running:
                    variant.send(request, count)
            counts = settle(parts, running, passes * count)
            for variant, cpu in zip(running, before, strict=True):
                used = (cpu_seconds(variant.processes) - cpu) / (passes * count)
                spans = counts.get(variant.variant.reporter, {"names": {}, "roots": 0})
                results[variant.name][route] = {"cpu": used, "seconds": variant.seconds, "spans": spans}
                variant.seconds = []
        for variant in running:
            results[variant.name]["memory"] = resident_mib(variant.processes)
    finally:
        for variant in running:
            variant.child.stop(signal.SIGKILL)
    return results


def settle(parts, running, requests, to_health=0):
    """Wait until all requests have been reported, those to_health by most; return the sinks' counts."""
    expected = {
        each.variant.reporter: requests + to_health * (each.name not in SILENT_ABOUT_HEALTH) for each in running
    }
    expected.pop("")
    return parts.wait_for_roots(expected)


def row(name, results, baseline):
    """Return one row: ratios to the baseline over the rounds."""
    cells = {"variant": name}
    for route in ("smoke", "thin"):
        mine, base = ([result[route]["cpu"] for result in rounds] for rounds in (results, baseline))
        seconds = [second for result in results for second in result[route]["seconds"]]
        cells[f"{route} CPU"] = ratio(mine, base)
        cells[f"{route} p50 ms"] = percentile(seconds, 0.5) * 1000
        cells[f"{route} p99 ms"] = percentile(seconds, 0.99) * 1000
    return cells | {"memory MiB": sum(result["memory"] for result in results) / len(results)}


def recorded(name, variant, result):
    """Return a note that says what the sinks got for one smoke request."""
    if not variant.reporter:
        return (
            f"{name}: nothing is recorded"
            if name == BASELINE
            else f"{name}: its spans go nowhere; for the waiting times"
        )
    spans = result["smoke"]["spans"]
    requests = max(spans["roots"], 1)
    names = ", ".join(
        f"{each}" + (f" x{n / requests:.2g}" if n != requests else "") for each, n in spans["names"].items()
    )
    remark = f" ({variant.remark})" if variant.remark else ""
    return f"{name}{remark}: {spans['roots']} requests arrived, each with {names or 'nothing'}"
