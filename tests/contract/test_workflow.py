"""The workflow runs what a newcomer runs, on every Python that is supported, with no more rights than it needs."""

import re
import tomllib
from pathlib import Path

import yaml

import shipped

TEXT = (shipped.ROOT / ".github/workflows/ci.yml").read_text()
WORKFLOW = yaml.safe_load(TEXT)
UPDATES = yaml.safe_load((shipped.ROOT / ".github/dependabot.yml").read_text())["updates"]
OLDEST = tomllib.loads((shipped.ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
OF_THE_IMAGES = re.search(
    r"^ARG PYTHON_VERSION=(\d+\.\d+)", (shipped.ROOT / "onboarding-lambda/Dockerfile").read_text(), re.M
)[1]


def commands(job):
    """Return the commands of a job, as one text."""
    return "\n".join(step.get("run", "") for step in WORKFLOW["jobs"][job]["steps"])


def test_every_action_is_pinned_to_a_commit_with_its_tag_beside_it():
    uses = re.findall(r"uses: (.+)", TEXT)
    assert uses
    assert [action for action in uses if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)] == []
    assert len({action.split("@")[0] for action in uses}) == len(set(uses))  # one commit of each


def test_it_may_read_the_repository_and_nothing_else():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert [name for name, job in WORKFLOW["jobs"].items() if "permissions" in job] == []
    assert "secrets." not in TEXT
    checkouts = [s for job in WORKFLOW["jobs"].values() for s in job["steps"] if "checkout" in s.get("uses", "")]
    assert [step["with"] for step in checkouts] == [{"persist-credentials": False}] * len(WORKFLOW["jobs"])


def test_the_tests_run_on_every_python_from_the_oldest_to_the_images():
    versions = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python-version"]
    oldest, newest = (int(version.split(".")[1]) for version in (OLDEST, OF_THE_IMAGES))
    assert versions == [f"3.{minor}" for minor in range(oldest, newest + 1)]
    assert "make test" in commands("test")


def test_style_and_docker_are_checked_as_well():
    assert "make lint" in commands("lint")
    assert "make images" in commands("docker")
    assert "tests/e2e/test_images.py" in commands("docker")
    assert "docker compose up" in commands("docker")


def test_what_is_updated_is_where_it_is_looked_for():
    marks = {"pip": "requirements.txt", "gomod": "go.mod", "docker": "Dockerfile"}
    for update in UPDATES:
        kind, folders = update["package-ecosystem"], update.get("directories") or [update["directory"]]
        if kind in marks:
            found = {f"/{path.parent.relative_to(shipped.ROOT)}" for path in committed(marks[kind])}
            assert set(folders) == found
    assert {update["package-ecosystem"] for update in UPDATES} == {*marks, "github-actions"}


def committed(name):
    """Return the files of that name in the folders of the project."""
    folders = ("onboarding-api", "onboarding-lambda", "otel", "infrastructure")
    return [path for folder in folders for path in Path(shipped.ROOT / folder).rglob(name)]
