"""Reads what is shipped to AWS, so that the local run starts the same things with the same settings."""

import json
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]


def render(value: Any, variables: Mapping[str, str]) -> Any:
    """Return value (any JSON) with every ${NAME} replaced; raises ValueError with the name that is unset or empty."""
    if isinstance(value, dict):
        return {key: render(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [render(item, variables) for item in value]
    if not isinstance(value, str):
        return value
    for name in re.findall(r"\$\{(\w+)\}", value):
        if not variables.get(name):
            raise ValueError(f"{name} is not set")
    return string.Template(value).substitute(variables)


def read_json(name: str) -> Any:
    """Return infrastructure/NAME as it stands, placeholders included."""
    return json.loads((ROOT / "infrastructure" / name).read_text())


def container_environment(container: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Return {name: value} of a container of the task definition; each of its secrets needs a variable of its name."""
    definition = next(c for c in read_json("taskdef.json")["containerDefinitions"] if c["name"] == container)
    secrets = [{"name": entry["name"], "value": f"${{{entry['name']}}}"} for entry in definition.get("secrets", [])]
    return {entry["name"]: render(entry["value"], variables) for entry in definition["environment"] + secrets}


def lambda_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return {name: value} of the function's variables."""
    return dict(render(read_json("lambda-environment.json")["Variables"], variables))


def start_command(dockerfile: str) -> list[str]:
    """Return the exec-form CMD of a Dockerfile as a list of words."""
    (words,) = re.findall(r"^CMD (\[.*\])$", (ROOT / dockerfile).read_text(), re.MULTILINE)
    return list(json.loads(words))


def queue_properties() -> Any:
    """Return the Properties of the queue in the CloudFormation template."""
    template = yaml.safe_load((ROOT / "infrastructure" / "foundation.yaml").read_text())
    return template["Resources"]["Queue"]["Properties"]


def pipelines_with(additions: Sequence[str], for_traces: Sequence[str] = ()) -> dict[str, Any]:
    """Return the Collector's pipelines as an overlay: each with its exporters as shipped, and the additions after them.

    for_traces: further additions, to the pipelines of traces only. They are restated whole because a list in a second
    configuration replaces that of the first.
    """
    service = yaml.safe_load((ROOT / "otel/coralogix-collector.yaml").read_text())["service"]
    return {
        "service": {
            "pipelines": {
                name: {
                    "exporters": [
                        *pipeline["exporters"],
                        *additions,
                        *(for_traces if name.startswith("traces") else ()),
                    ]
                }
                for name, pipeline in service["pipelines"].items()
            }
        }
    }
