"""Measuring: the CPU time of other processes, intervals over rounds, environments of their own, and tables."""

import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil

import shipped
from stack import TOOLS

BENCH = Path(__file__).parent
# Two-sided 95 % quantiles of Student's t for 1, 2, 3 ... degrees of freedom.
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10)


def cpu_seconds(processes):
    """Return the CPU time (user and system, all threads) that living psutil processes have used so far.

    The clock of another process is that of clock_getcpuclockid(3): nanoseconds where /proc/PID/stat has ticks of 10 ms.
    """
    return sum(time.clock_gettime((~process.pid << 3) | 2) for process in processes)


def family(child):
    """Return a started Child and all it has started as psutil processes."""
    leader = psutil.Process(child.process.pid)
    return [leader, *leader.children(recursive=True)]


def resident_mib(processes):
    """Return the memory of processes in MiB; what they share counts once (PSS)."""
    return sum(process.memory_full_info().pss for process in processes) / 2**20


def mean(values):
    """Return (mean, low, high) of one value per round; the bounds are Student's 95 % interval."""
    middle = statistics.fmean(values)
    half = STUDENT[min(len(values), len(STUDENT) + 1) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return middle, middle - half, middle + half


def ratio(values, baseline):
    """Return (ratio, low, high) of two lists with one value per round, compared within each round."""
    logarithms = [math.log(value / base) for value, base in zip(values, baseline, strict=True)]
    return tuple(math.exp(bound) for bound in mean(logarithms))


def difference(values, baseline, scale=1.0):
    """Return (difference, low, high) of two lists with one value per round, times scale."""
    return mean([(value - base) * scale for value, base in zip(values, baseline, strict=True)])


def percentile(values, share):
    """Return the value below which that share (0 to 1) of values lies."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def rotated(items, turn):
    """Return items as a list that starts with another one each turn, so that no variant is always the first."""
    items = list(items)
    turn %= len(items)
    return items[turn:] + items[:turn]


def environment_of(name):
    """Return the bin directory of a peer's own virtual environment, made when it is missing or out of date.

    name: of a file in peers/, or of one of the demo's own two programs. Raises RuntimeError when it can't be installed.
    """
    requirements = BENCH / "peers" / f"{name}.txt"
    if not requirements.exists():
        requirements = shipped.ROOT / f"onboarding-{name}" / "requirements.txt"
    directory = TOOLS / "bench" / name
    stamp = directory / "requirements.txt"
    if not (stamp.exists() and stamp.read_bytes() == requirements.read_bytes()):
        print(f"Installing {name} into .tools/bench/{name}/ (once) ...", file=sys.stderr)
        shutil.rmtree(directory, ignore_errors=True)
        _run(sys.executable, "-m", "venv", "--without-pip", directory)
        uv = [Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--system-certs", "--compile-bytecode"]
        _run(*uv, "--python", directory / "bin/python", "--requirement", requirements)
        shutil.copy(requirements, stamp)
    return directory / "bin"


def _run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it says nothing"])[-1])


def installed(names):
    """Return ({name: bin directory}, [a note for each that can't be installed])."""
    found, notes = {}, []
    for name in names:
        try:
            found[name] = environment_of(name)
        except RuntimeError as error:
            notes.append(f"{name} could not be installed and is not measured: {error}")
    return found, notes


def machine():
    """Return what the numbers were measured on."""
    model = next(line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_at_start": [round(load, 2) for load in os.getloadavg()],
    }


def packages():
    """Return {environment: {package: version}} of every environment there is."""
    found = {}
    for directory in sorted((TOOLS / "bench").glob("*/lib/*/site-packages")):
        information = sorted(directory.glob("*.dist-info"))
        pairs = (item.name.removesuffix(".dist-info").rsplit("-", 1) for item in information)
        found[directory.parents[2].name] = dict(pairs)
    return found


def cell(value):
    """Return a value of a table as text: (1.5, 1.4, 1.6) is one with its interval."""
    if isinstance(value, tuple):
        middle, low, high = value
        digits = 0 if abs(middle) >= 100 else 1 if abs(middle) >= 10 else 2
        return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return "-" if value is None else str(value)


def table(rows):
    """Return rows (dicts with the same keys) as the lines of a table."""
    cells = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for number, row in enumerate(cells):
        padded = [text.rjust(width) for text, width in zip(row, widths, strict=True)]
        yield "  " + "  ".join([row[0].ljust(widths[0]), *padded[1:]])
        if not number:
            yield "  " + "  ".join("-" * width for width in widths)
