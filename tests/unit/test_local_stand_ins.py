"""The stand-in for Lambda's event source mapping reads an answer as Lambda does, and the reader fills in what is set.

The rules: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
"""

import json
import os
import string
import subprocess
import sys

import pytest

import shipped
import stack
from event_source_mapping import failed_ids
from ingress import settled

BATCH = ["a", "b", "c"]
ALL = set(BATCH)


def failures(*identifiers):
    return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in identifiers]}


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        pytest.param(b"", set(), id="empty answer"),
        pytest.param(b" \n", set(), id="white space"),
        pytest.param(b"null", set(), id="null"),
        pytest.param({}, set(), id="empty object"),
        pytest.param({"statusCode": 200}, set(), id="object without batchItemFailures"),
        pytest.param({"batchItemFailures": []}, set(), id="empty list"),
        pytest.param({"batchItemFailures": None}, set(), id="null list"),
        pytest.param(failures("b"), {"b"}, id="one record"),
        pytest.param(failures("b", "b"), {"b"}, id="one record twice"),
        pytest.param(failures("a", "b", "c"), ALL, id="every record"),
        pytest.param(failures("b", "unknown"), ALL, id="unknown identifier"),
        pytest.param(failures(""), ALL, id="empty identifier"),
        pytest.param(failures(None), ALL, id="null identifier"),
        pytest.param(failures(1), ALL, id="identifier a number"),
        pytest.param(failures(["b"]), ALL, id="identifier a list"),
        pytest.param({"batchItemFailures": [{"ItemIdentifier": "b"}]}, ALL, id="wrong key"),
        pytest.param({"batchItemFailures": [{}]}, ALL, id="no key"),
        pytest.param({"batchItemFailures": ["b"]}, ALL, id="identifiers without objects"),
        pytest.param({"batchItemFailures": [None]}, ALL, id="null item"),
        pytest.param({"batchItemFailures": "b"}, ALL, id="string for the list"),
        pytest.param({"batchItemFailures": {"itemIdentifier": "b"}}, ALL, id="object for the list"),
        pytest.param({"batchItemFailures": 1}, ALL, id="number for the list"),
        pytest.param(b"{", ALL, id="malformed JSON"),
        pytest.param(b"\xff", ALL, id="no text"),
        pytest.param(b"[" * 100_000, ALL, id="nested by the thousand"),
        pytest.param(b"Task timed out after 15.00 seconds", ALL, id="timeout as the emulator says it"),
        pytest.param({"errorType": "KeyError", "errorMessage": "'Records'"}, ALL, id="error of the function"),
        pytest.param({"errorType": "Runtime.ExitError"}, ALL, id="exit of the runtime"),
    ],
)
def test_an_answer_fails_the_records_the_documentation_says(answer, failed):
    assert failed_ids(answer if isinstance(answer, bytes) else json.dumps(answer).encode(), BATCH) == failed


@pytest.mark.parametrize("answer", [b'"done"', b'""', b"[]", b"0", b"1", b"false", b"true"])
def test_an_answer_the_documentation_does_not_speak_of_deletes_nothing(answer):
    assert failed_ids(answer, BATCH) == ALL


@pytest.mark.parametrize(
    ("now", "before", "shown", "expected"),
    [
        pytest.param(3, 0, 0, [], id="new"),
        pytest.param(4, 3, 0, [], id="growing"),
        pytest.param(4, 4, 0, ["t"], id="quiet"),
        pytest.param(4, 4, 4, [], id="already shown"),
        pytest.param(5, 5, 4, ["t"], id="grown since it was shown"),
        pytest.param(3, 3, 4, [], id="its oldest spans dropped"),
    ],
)
def test_a_trace_is_shown_when_it_is_quiet_and_has_more_spans_than_were_shown(now, before, shown, expected):
    assert settled({"t": now}, {"t": before}, {"t": shown}) == expected


def test_every_name_is_filled_in_at_every_depth():
    template = {"a": ["${X}-${Y}", {"b": "${X}"}], "n": 1, "yes": True, "nothing": None, "plain": "x"}
    assert shipped.render(template, {"X": "1", "Y": "2"}) == {
        "a": ["1-2", {"b": "1"}],
        "n": 1,
        "yes": True,
        "nothing": None,
        "plain": "x",
    }


@pytest.mark.parametrize(
    "variables", [{}, {"NAME": ""}, {"NAME": None}, {"name": "x"}], ids=["unset", "empty", "none", "case"]
)
@pytest.mark.parametrize("template", ["${NAME}", "x-${NAME}-y", ["${NAME}"], {"a": {"b": ["${NAME}"]}}])
def test_a_name_without_a_value_is_an_error_that_says_it(template, variables):
    with pytest.raises(ValueError, match="NAME"):
        shipped.render(template, variables)


def test_a_value_is_not_rendered_again():
    assert shipped.render("${X}", {"X": "${Y}"}) == "${Y}"


@pytest.mark.parametrize("path", sorted((shipped.ROOT / "infrastructure").glob("*.json")), ids=lambda path: path.name)
def test_nothing_but_a_placeholder_contains_a_dollar_sign(path):
    text = path.read_text()
    json.loads(text)
    assert all(match["braced"] for match in string.Template.pattern.finditer(text))


def test_no_two_ports_of_a_stack_are_the_same_whichever_was_given(monkeypatch):
    handed_out = iter([21, 22, 23, 24, 25, 26, 27, 28, 29])
    monkeypatch.setattr(stack, "free_port", lambda: next(handed_out))
    found = dict.fromkeys(["collector", "health_check", "collector_metrics", "function", "runtime_api", "ingress"], 22)
    ports = stack.Ports(api=21, sqs=22, **found)
    assert (ports.api, ports.sqs) == (21, 22)
    assert len(set(vars(ports).values())) == 8


def test_a_stack_that_ends_kills_no_process_of_another():
    command = [sys.executable, "-c", "import stack; input()"]
    environment = {**os.environ, "PYTHONPATH": str(shipped.ROOT / "infrastructure/local")}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as ending:
        marked = {"mirakuru_uuid": f"1:a{ending.pid}b"}  # by chance the other's mark holds this one's process id
        with subprocess.Popen(["sleep", "60"], env=marked) as other:
            ending.communicate(b"\n")
            still_runs = other.poll() is None
            other.kill()
    assert (ending.returncode, still_runs) == (0, True)
