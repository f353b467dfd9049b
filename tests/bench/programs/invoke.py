"""Loads a function and calls its handler as often as each line on standard input says: invoke.py MODULE.

A line is "BATCH INVOCATIONS"; the result is a line of JSON: CPU seconds of the process for all of it, seconds of each
invocation. The log goes where awslambdaric would print it, in the same format.
"""

import importlib
import json
import logging
import sys
import time
import uuid
from types import SimpleNamespace

from records import record

FORMAT = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(message)s"


def context():
    """Return what the handler is told about its invocation."""
    return SimpleNamespace(
        aws_request_id=str(uuid.uuid4()),
        function_name="cal-onboarding-lambda",
        invoked_function_arn=f"arn:aws:lambda:us-east-1:{0:012}:function:cal-onboarding-lambda",
        get_remaining_time_in_millis=lambda: 15_000,
    )


def main(module):
    """Serve lines until there are no more."""
    results, sys.stdout = sys.stdout, sys.stderr
    logging.basicConfig(filename="/dev/null", format=FORMAT, datefmt="%Y-%m-%dT%H:%M:%S", level=logging.WARNING)
    loaded = importlib.import_module(module)
    for line in sys.stdin:
        batch, invocations = map(int, line.split())
        event, seconds = {"Records": [record() for _ in range(batch)]}, []
        began = time.process_time()
        for _ in range(invocations):
            at = time.perf_counter()
            result = loaded.handler(event, context())
            seconds.append(time.perf_counter() - at)
            if result["batchItemFailures"]:
                sys.exit(f"{module} failed for {result['batchItemFailures']}")
        print(json.dumps({"cpu": time.process_time() - began, "seconds": seconds}), file=results, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
