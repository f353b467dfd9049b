"""The log lines people rely on are logged, and those the READMEs quote are the ones that are logged."""

import ast
import re

import pytest

import readmes
import shipped

PROSE = "\n".join(readmes.TEXTS.values())
PROGRAMS = {
    "onboarding-api": ["onboarding-api/app.py"],
    "onboarding-lambda": [f"onboarding-lambda/{name}.py" for name in ("app", "telemetry", "export")],
}
CONTRACT = {
    "PRODUCER trace_id=": "onboarding-api",
    "extracted traceparent ": "onboarding-lambda",
    "onboarded customer_id=": "onboarding-lambda",
    "failed message_id=": "onboarding-lambda",
    "Flush complete ": "onboarding-lambda",
    "Flush incomplete ": "onboarding-lambda",
}
SCRIPT = (shipped.ROOT / "infrastructure/operate.sh").read_text()
SEARCHED = re.findall(r"""show \d /\S+ ["']\\?"([^"\\$]+)""", SCRIPT)


def formats(program):
    """Return the format of every call of log.… in a program; raises ValueError for one that is no plain string."""
    calls = [
        node
        for path in PROGRAMS[program]
        for node in ast.walk(ast.parse((shipped.ROOT / path).read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"log.{m}" for m in ("info", "warning", "error")}
    ]
    return [ast.literal_eval(call.args[0]) for call in calls]


def pattern(text):
    """Return the regular expression of what a format logs."""
    return re.sub(r"%(\d*[a-z])", ".+", re.escape(text))


@pytest.mark.parametrize("start", CONTRACT)
def test_a_line_of_the_contract_is_logged(start):
    assert [text for text in formats(CONTRACT[start]) if text.startswith(start)] != []


@pytest.mark.parametrize("start", CONTRACT)
def test_a_line_of_the_contract_is_in_a_readme(start):
    assert start.strip() in PROSE


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_line_the_readmes_show_is_logged(program):
    shown = re.findall(rf"^ *{program}: (.+)$", PROSE, re.MULTILINE)
    assert shown
    assert [line for line in shown if not any(re.search(pattern(text) + "$", line) for text in formats(program))] == []


@pytest.mark.parametrize("quoted", sorted(set(re.findall(r"`([A-Za-z]+ [a-z_]+=)…?`", PROSE))))
def test_every_line_the_readmes_speak_of_is_logged(quoted):
    assert [text for program in PROGRAMS for text in formats(program) if text.startswith(quoted)] != []


def test_every_text_that_the_script_searches_logs_for_is_logged():
    assert sorted(SEARCHED) == ["Flush ", "PRODUCER trace_id=", "extracted traceparent 00-"]
    for searched in SEARCHED:
        assert [text for program in PROGRAMS for text in formats(program) if re.search(searched, text)] != []
