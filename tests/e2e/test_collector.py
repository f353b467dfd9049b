"""The Collector as a program: what it says when it starts, when it refuses to, and when it cannot send."""

import os
import subprocess

import pytest

import flood
import readmes
import shipped
from collector_only import CollectorOnly
from stack import poll_until

# Go resolves no name under it (RFC 7686), so that nobody is asked for this one.
NOWHERE = "coralogix.onion"
DOMAIN, KEY = "CORALOGIX_DOMAIN", "CORALOGIX_PRIVATE_KEY"
WHITE_SPACE = ["{}\n", "{}\r\n", "\t{}", " {} ", "\n{}\n\n"]
NO_DOMAINS = [
    "https://{}",
    "http://{}",
    "ingress.{}",
    "https://ingress.{}:443",
    "{}/",
    "{}:443",
    "us2 {}",
    "'{}'",
    '"{}"',
    ".{}",
    "{}.",
    "us2..{}",
    "${{{}}}",
]
NO_KEYS = [
    "Bearer {}",
    "'{}'",
    '"{}"',
    "a\n{}",
    "a\t{}",
    "\u201c{}\u201d",
    "{}\u00a0",
    "\ufeff{}",
    "<{}>",
    '{{"k":"{}"}}',
]


@pytest.fixture
def entrypoint(tmp_path):
    """entrypoint(**variables) runs the entrypoint with a program that prints what it is given, in place of otelcol."""
    program = tmp_path / "otelcol"
    program.write_text(f'#!/bin/sh\nprintf "[%s]" "${DOMAIN}" "${KEY}" "$@"\n')
    program.chmod(0o755)

    def run(**variables):
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", DOMAIN: "coralogix.invalid", KEY: "cxtp_1234"}
        environment |= variables
        return subprocess.run(
            [shipped.ROOT / "otel/entrypoint.sh", "--config=a b"],
            env={name: value for name, value in environment.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    return run


def test_the_collector_starts_without_a_single_warning(stack, onboard):
    onboard()
    lines = stack.collector.log_file.read_text().splitlines()
    assert {line.split("\t")[1] for line in lines} == {"info"}


def test_the_entrypoint_starts_the_collector_with_the_variables_and_words_it_was_given(entrypoint):
    assert entrypoint().stdout == "[coralogix.invalid][cxtp_1234][--config=a b]"


@pytest.mark.parametrize("value", [None, "", " ", "\n"], ids=["missing", "empty", "a space", "a newline"])
@pytest.mark.parametrize("name", [DOMAIN, KEY])
def test_the_entrypoint_refuses_to_start_without_a_variable_and_names_it(entrypoint, name, value):
    run = entrypoint(**{name: value})
    assert run.returncode != 0
    assert f"{name}: is missing" in run.stderr
    assert run.stdout == ""


@pytest.mark.parametrize("around", WHITE_SPACE, ids=repr)
def test_white_space_around_a_variable_is_not_part_of_it(entrypoint, around):
    run = entrypoint(**{DOMAIN: around.format("us2.coralogix.invalid"), KEY: around.format("cxtp_5678")})
    assert run.stdout == "[us2.coralogix.invalid][cxtp_5678][--config=a b]"


@pytest.mark.parametrize("wrong", NO_DOMAINS, ids=repr)
def test_the_entrypoint_names_the_variable_that_is_no_domain_and_not_its_value(entrypoint, wrong):
    run = entrypoint(**{DOMAIN: wrong.format("secret.invalid")})
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith(f"{DOMAIN}: is not a domain alone")
    assert "secret" not in run.stderr


@pytest.mark.parametrize("wrong", NO_KEYS, ids=repr)
def test_the_entrypoint_names_the_variable_that_is_no_key_and_not_its_value(entrypoint, wrong):
    run = entrypoint(**{KEY: wrong.format("secret")})
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == f"{KEY}: has a character that no key has\n"
    assert "secret" not in run.stderr


@pytest.mark.parametrize("key", ["cxtp_aB3dE5", "0b6e3c1a-1c9e-4b60-9d7a-3f1f0a6f2b11", "a.b/c+d=="])
def test_every_form_a_key_may_have_is_taken(entrypoint, key):
    assert entrypoint(**{KEY: key}).stdout == f"[coralogix.invalid][{key}][--config=a b]"


def test_the_words_for_a_variable_that_is_wrong_are_those_of_the_troubleshooting_table(entrypoint):
    table = readmes.section(readmes.FRONT_PAGE, "## Troubleshooting")
    said = [
        entrypoint(**{DOMAIN: ""}).stderr,
        entrypoint(**{KEY: ""}).stderr,
        entrypoint(**{DOMAIN: "https://us2.coralogix.com"}).stderr,
        entrypoint(**{KEY: "'key'"}).stderr,
    ]
    quoted = [
        f"{DOMAIN}: is missing",
        f"{KEY}: is missing",
        f"{DOMAIN}: is not a domain alone",
        f"{KEY}: has a character that no key has",
    ]
    for words, message in zip(quoted, said, strict=True):
        assert words in message
        assert f"`{words}`" in table


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({KEY: "another-key"}, "a wrong key is `Unauthenticated`"),
        ({DOMAIN: NOWHERE, "INGRESS_ADDRESS": f"ingress.{NOWHERE}:443"}, "a wrong domain `no children to pick from`"),
    ],
    ids=["key", "domain"],
)
def test_the_words_for_a_collector_that_cannot_send_are_those_of_the_troubleshooting_table(tmp_path, variables, words):
    assert words in readmes.section(readmes.FRONT_PAGE, "## Troubleshooting")
    quoted = words.split("`")[1]
    with CollectorOnly(tmp_path / "run", **variables) as alone:
        alone.send(flood.request(lambda: "span", lambda: "GET"))
        poll_until(lambda: quoted in alone.collector.log_file.read_text(), f"{quoted} in the log")
        assert alone.ingress.received == 0


def test_a_key_that_ends_in_a_newline_is_accepted(tmp_path):
    with CollectorOnly(tmp_path / "run", **{KEY: "local-stand-in-key\n"}) as alone:
        alone.send(flood.request(lambda: "span", lambda: "GET"))
        poll_until(lambda: alone.ingress.received == flood.REQUEST_SPANS, "the spans")
