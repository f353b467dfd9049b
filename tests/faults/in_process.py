"""The shipped handler without an emulator, for events beyond its 6 MB: the event on stdin, the results on stdout.

After the event, empty ones follow until a flush is complete, because what a flush could not send waits for the next.
"""

import itertools
import json
import logging
import sys
import time
from types import SimpleNamespace

TIMEOUT_SECONDS = 60
lines = []


class Listener(logging.Handler):
    """Keeps the formatted lines."""

    def emit(self, record):
        """Keep a line, and print it where the emulator's would be."""
        lines.append(record.getMessage())
        print(record.getMessage(), file=sys.stderr)


logging.getLogger().addHandler(Listener())

import app  # noqa: E402 (its logger is set up by Lambda before it is imported)


def invoke(event, number):
    """Call the handler as Lambda would; return its result."""
    ends = time.monotonic() + TIMEOUT_SECONDS
    remaining = lambda: int(1000 * (ends - time.monotonic()))  # noqa: E731
    return app.handler(event, SimpleNamespace(aws_request_id=str(number), get_remaining_time_in_millis=remaining))


results = []
for number in itertools.count():
    results.append(invoke(json.load(sys.stdin) if number == 0 else {"Records": []}, f"in-process-{number}"))
    if lines[-1].startswith("Flush complete") or "remaining=0" in lines[-1]:
        break
    time.sleep(1)
json.dump(results, sys.stdout)
