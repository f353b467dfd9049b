"""The table of attributes against the spans of a real run."""

import re

import readmes
from stack import poll_until


def test_the_table_names_every_attribute_and_no_other(stack, call, trace_with):
    request = {"customer_id": "TEST-001", "simulate": "failure_once"}
    _, answer, _ = call("POST", "/telemetry/smoke", request, {"User-Agent": "browser"})
    spans = trace_with(answer["trace_id"], 5)  # both deliveries included
    failed = next(span for span in spans if span.events)
    invocation = failed.attributes["faas.invocation_id"]

    def batch():
        of_invocation = [s for s in stack.ingress.spans() if s.attributes.get("faas.invocation_id") == invocation]
        return [span for span in of_invocation if span.name == "sqs.batch"]

    spans += poll_until(batch, "the sqs.batch span")
    seen = {name for span in spans for attributes in (span.attributes, span.resource) for name in attributes}
    seen |= {name for _, attributes in failed.events for name in attributes}

    section = readmes.section(readmes.TELEMETRY, "## The telemetry")
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert sorted(named) == sorted(seen)
