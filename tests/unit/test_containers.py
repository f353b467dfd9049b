"""What the containers of compose.yaml print."""

import re

import pytest
from rich.console import Console

import containers
from ingress import Point, Span


class Enough(Exception):
    """The test has seen what it wants."""


class Ingress:
    """An ingress that has received a failed request and an invocation; it ends the view after some turns."""

    def __init__(self, turns):
        self._turns = turns

    def spans(self):
        """Return what has arrived."""
        if not self._turns:
            raise Enough
        self._turns -= 1
        api, function = "onboarding-api", "onboarding-lambda"
        error = ("ERROR", "RuntimeError: simulate=failure\nmore", {}, {}, [], [])
        fine = ("UNSET", "", {}, {}, [], [])
        return [
            Span("POST /customers", "SERVER", api, "a", "1", "", 0, 2_500_000, *fine),
            Span("sqs.process", "CONSUMER", function, "a", "2", "1", 1, 1_500_001, *error),
            Span("sqs.batch", "SERVER", function, "b", "3", "", 1, 1_500_001, *error),
        ]

    def points(self):
        """Return one series."""
        labels = {"service.name": "onboarding-api", "span.name": "POST /customers", "span.kind": "SPAN_KIND_SERVER"}
        return [Point("calls", "", 2, {}, labels, 7)]


def test_a_request_is_printed_once_with_durations_and_its_error_and_red_when_it_is_new(monkeypatch, capsys):
    monkeypatch.setattr(containers.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(containers, "RED_EVERY", 0)
    with pytest.raises(Enough):
        containers.show(Ingress(turns=5), Console(width=100))
    output = capsys.readouterr().out
    assert output.count("The trace a:") == 1
    assert "The trace b:" not in output
    assert re.search(r"\n  POST /customers +SERVER +onboarding-api +2\.5 ms\n", output)
    assert re.search(r"\n    sqs\.process +CONSUMER .* 1\.5 ms  ERROR\n +RuntimeError: simulate=failure\n", output)
    assert [line.split() for line in output.splitlines() if line.endswith("-")] == [
        ["onboarding-api", "POST", "/customers", "SERVER", "7", "0", "0.0", "-"]
    ]


def test_what_to_type_names_the_ports_that_are_published(monkeypatch, capsys):
    monkeypatch.setattr(containers.signal, "pause", lambda: None)
    monkeypatch.setenv("PORT", "8080")
    monkeypatch.setenv("VIEWER_PORT", "8004")
    containers.ready()
    assert capsys.readouterr().out == (
        "ready: curl http://127.0.0.1:8080/telemetry/smoke -H 'Content-Type: application/json'"
        """ -d '{"customer_id":"TEST-001"}'\n"""
        "       traces: http://127.0.0.1:8004/traces\n"
    )


def test_half_an_account_ends_the_ingress_with_the_name_of_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(containers.sys, "argv", ["containers.py", "ingress"])
    monkeypatch.setenv("CORALOGIX_DOMAIN", "us2.coralogix.com")
    monkeypatch.delenv("CORALOGIX_PRIVATE_KEY", raising=False)
    assert containers.main() == 1
    assert "CORALOGIX_PRIVATE_KEY is not" in capsys.readouterr().err
