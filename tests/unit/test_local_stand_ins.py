"""What is shipped is read with its placeholders filled in, a stack has its ports, and a quiet trace is printed once."""

import itertools
import json
import socket
import string

import pytest

import shipped
import stack
from containers import settled


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


def test_a_free_port_is_given_to_one_process_only_and_a_server_can_listen_there(monkeypatch):
    port = stack.free_port()
    monkeypatch.setattr(stack, "_candidates", itertools.cycle(range(port, port + 50)))  # as another process's may be
    assert stack.free_port() != port
    with socket.create_server(("127.0.0.1", port)):
        pass
