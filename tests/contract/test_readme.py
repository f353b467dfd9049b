"""What the README shows is what the files say. Its shell blocks are executed elsewhere."""

import re

import pytest

import shipped

README = (shipped.ROOT / "README.md").read_text()
GOLDEN_TRACE = (shipped.ROOT / "tests/golden-trace.txt").read_text()
SOURCES = ["onboarding-api/app.py", "onboarding-lambda/app.py", "otel/coralogix-collector.yaml"]


def blocks(language):
    """Return the README's fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_golden_trace_is_shown_as_it_is_asserted():
    assert GOLDEN_TRACE in blocks("text")


def test_the_printed_demo_shows_the_golden_trace():
    printed = next(block for block in blocks("text") if block.startswith("Starting "))
    assert [line for line in GOLDEN_TRACE.splitlines() if f"\n  {line}" not in printed] == []


@pytest.mark.parametrize("block", blocks("python") + blocks("yaml"))
def test_code_in_the_readme_is_code_in_a_file(block):
    lines = [line for line in block.splitlines() if line]

    def shows(source):
        rest = iter((shipped.ROOT / source).read_text().splitlines())
        return all(line in rest for line in lines)  # in this order; what is between them may be left out

    assert [source for source in SOURCES if shows(source)] != []


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_into_the_repository_lead_somewhere(target):
    assert target.startswith("https://") or (shipped.ROOT / target).exists()


def test_the_first_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^(\w+):", (shipped.ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make (\w+)", "".join(blocks("bash")), re.MULTILINE)) <= set(targets)


def test_the_costs_name_the_versions_that_are_measured():
    named = README.split("Beside it are ")[1].split(".\n")[0]
    pins = "".join(path.read_text() for path in (shipped.ROOT / "tests/bench/peers").glob("*.txt")).splitlines()
    versions = ["==".join(peer.split()) for peer in re.split(r",\s+|\s+and\s+", named)]
    assert [version for version in versions if version not in pins] == []


def test_the_repository_structure_names_what_is_there():
    structure = next(block for block in blocks("text") if block.startswith("onboarding-api/"))
    names = re.findall(r"[\w.-]+\.\w+|^[\w/-]+", structure, re.MULTILINE)
    files = {path.name for path in shipped.ROOT.rglob("*") if ".venv" not in path.parts}
    assert [name for name in names if name.rstrip("/").split("/")[-1] not in files] == []
