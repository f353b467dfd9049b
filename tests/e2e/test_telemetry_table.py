"""The tables of attributes against the spans of a real run, and against OpenTelemetry's semantic conventions."""

import importlib
import pkgutil
import re

import pytest
from opentelemetry.semconv import attributes as stable
from opentelemetry.semconv._incubating import attributes as in_development

import readmes
from stack import poll_until


@pytest.fixture(scope="module")
def sent(stack, call, trace_with):
    """{attribute's name: values} of everything that one request and its redelivery send: spans, resources, events."""
    request = {"customer_id": "TEST-001", "simulate": "failure_once"}
    _, response, _ = call("POST", "/telemetry/smoke", request, {"User-Agent": "browser"})
    spans = trace_with(response["trace_id"], 5)  # both deliveries included
    failed = next(span for span in spans if span.events)
    invocation = failed.attributes["faas.invocation_id"]

    def batch():
        of_invocation = [s for s in stack.ingress.spans() if s.attributes.get("faas.invocation_id") == invocation]
        return [span for span in of_invocation if span.name == "sqs.batch"]

    spans += poll_until(batch, "the sqs.batch span")
    values = {}
    for attributes in (*(a for s in spans for a in (s.attributes, s.resource)), *(a for _, a in failed.events)):
        for name, value in attributes.items():
            values.setdefault(name, set()).add(value)
    return values


@pytest.fixture(scope="module")
def conventions():
    """{attribute's name: its enumerated values, or None} of the conventions, what is deprecated included."""
    known = {}
    for package in (in_development, stable):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            constants = vars(importlib.import_module(found.name))
            for constant, name in constants.items():
                if constant.isupper() and isinstance(name, str):
                    values = constants.get(f"{constant.title().replace('_', '')}Values")
                    known[name] = {value.value for value in values} if values else known.get(name)
    return known


def first_cells(section):
    """Return what is quoted in the first cells of a section's tables."""
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return sorted(name for row in rows for name in re.findall(r"`([^`]+)`", row))


def test_the_table_names_every_attribute_and_no_other(sent):
    assert first_cells(readmes.section(readmes.TELEMETRY, "## The telemetry")) == sorted(sent)


def test_every_name_and_value_is_one_of_the_conventions_or_stands_among_the_differences(sent, conventions):
    assert "aws_sqs" in conventions["messaging.system"]
    assert conventions["service.name"] is None
    names = [name for name in sent if name not in conventions]
    values = [
        f"{name}={value}"
        for name in sent
        if conventions.get(name)
        for value in sent[name]
        if value not in conventions[name]
    ]
    assert first_cells(readmes.section(readmes.TELEMETRY, "### Names and values")) == sorted(names + values)


def test_the_conventions_names_and_values_that_are_shown_are_theirs(conventions):
    section = readmes.section(readmes.TELEMETRY, "### Names and values")
    cells = [line.split("|")[2] for line in section.splitlines() if line.startswith("| `")]
    shown = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    enumerated = set().union(*filter(None, conventions.values()))
    assert shown
    assert [name for name in shown if name not in conventions and name not in enumerated] == []


def test_what_is_said_to_be_missing_is_not_sent(sent):
    missing = re.findall(r"no `([\w.]+)`", readmes.section(readmes.TELEMETRY, "### Spans"))
    assert set(missing) == {"error.type", "cloud.account.id"}
    assert not set(missing) & set(sent)
