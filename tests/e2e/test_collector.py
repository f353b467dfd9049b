"""The Collector as a program: what it says when it starts, and when it refuses to."""

import os
import subprocess

import pytest

import shipped


def test_the_collector_starts_without_a_single_warning(stack, onboard):
    onboard()
    lines = stack.collector.log_file.read_text().splitlines()
    assert {line.split("\t")[1] for line in lines} == {"info"}


@pytest.mark.parametrize("empty", [False, True], ids=["missing", "empty"])
@pytest.mark.parametrize("name", ["CORALOGIX_DOMAIN", "CORALOGIX_PRIVATE_KEY"])
def test_the_entrypoint_refuses_to_start_without_a_variable_and_names_it(name, empty):
    environment = {"PATH": os.environ["PATH"], "CORALOGIX_DOMAIN": "coralogix.invalid", "CORALOGIX_PRIVATE_KEY": "key"}
    del environment[name]
    if empty:
        environment[name] = ""
    run = subprocess.run(
        [shipped.ROOT / "otel/entrypoint.sh"], env=environment, capture_output=True, text=True, timeout=20, check=False
    )
    assert run.returncode != 0
    assert f"{name}: is missing" in run.stderr
