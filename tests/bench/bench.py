"""What the telemetry costs, measured beside what people would pick instead: bench.py [--quick] [section ...].

Prints a table for each section and writes .tools/bench/result.json. Figures are CPU time of the measured processes for
each unit of work, as ratios within interleaved rounds, with 95 % intervals: [low, high].
"""

import argparse
import datetime
import importlib
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = map(
    str, (HERE, HERE.parents[1] / "infrastructure/local", HERE.parent / "support", HERE.parent / "faults")
)
SECTIONS = ("api", "enqueue", "function", "collector", "whole")


def main():
    """Run the sections."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--quick", action="store_true", help="fewer rounds and requests, wider intervals")
    arguments.add_argument("sections", nargs="*", default=SECTIONS, metavar="section", help=", ".join(SECTIONS))
    chosen = arguments.parse_args()
    measure, parts = importlib.import_module("measure"), importlib.import_module("parts")
    result = {"date": f"{datetime.date.today()}", "quick": chosen.quick, "machine": measure.machine(), "sections": {}}
    print(", ".join(f"{name} {value}" for name, value in result["machine"].items()), flush=True)
    for name in chosen.sections:
        began = time.monotonic()
        with parts.Parts(measure.TOOLS / "bench" / "run") as running:
            section = importlib.import_module(name).run(running, chosen.quick)
        section["seconds"] = round(time.monotonic() - began)
        result["sections"][name] = section
        show(measure, section)
    result["packages"] = measure.packages()
    (measure.TOOLS / "bench" / "result.json").write_text(json.dumps(result, indent=1))


def show(measure, section):
    """Print a section."""
    print(f"\n{section['title']} ({section['seconds']} s)\n")
    for line in (*measure.table(section["rows"]), "", *(f"  {note}" for note in section["notes"])):
        print(line)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
