"""What the READMEs show is what the files say. The shell blocks for AWS are executed elsewhere."""

import re
from pathlib import PurePosixPath

import pytest
import yaml

import readmes
import shipped

GOLDEN_TRACE = (shipped.ROOT / "tests/golden-trace.txt").read_text()
SOURCES = ["onboarding-api/app.py", "onboarding-lambda/app.py", "otel/coralogix-collector.yaml"]
# Readers know these headings, and find them in this order.
HEADINGS = [
    "## Overview",
    "### Key Features",
    "## Repository Structure",
    "## Quick Start",
    "### Prerequisites",
    "### 1. Deploy ECS Fargate Service",
    "### 2. Deploy Lambda Function",
    "### 3. Configure Environment Variables",
    "### 4. Set Up SQS Event Source Mapping",
    "## OpenTelemetry Implementation Details",
    "### ECS Fargate (Producer)",
    "### AWS Lambda (Consumer)",
    "### OpenTelemetry Collector (Sidecar)",
    "## Verify in Coralogix",
    "### 1. Trace Explorer",
    "### 2. Service Map",
    "### 3. APM Services Dashboard",
    "### 4. Serverless Catalog",
    "## Testing",
    "### Generate Traffic",
    "### Manual Test",
    "## Best Practices Demonstrated",
    "## Troubleshooting",
    "## Resources",
    "### What the original document says that is not true",
    "## Contributing",
    "## License",
]
LINKS = [
    (path, target)
    for path, text in readmes.TEXTS.items()
    for target in sorted(set(re.findall(r"(?:\]\(|<img src=\")([^)\"]+)", text)))
]


def headings(path):
    """Return the headings of a README, without the lines of its fenced blocks that look like one."""
    return re.findall(r"^#+ .+$", re.sub(r"^```.*?^```$", "", readmes.TEXTS[path], flags=re.M | re.S), re.M)


def anchors(path):
    """Return what a link to a heading of this README may end in, as GitHub makes it of the heading."""
    return {re.sub(r"[^\w -]", "", heading.lstrip("# ").lower()).replace(" ", "-") for heading in headings(path)}


def test_the_front_page_has_its_headings_in_their_order():
    assert headings(readmes.FRONT_PAGE)[1:] == HEADINGS


def test_the_front_page_is_short():
    assert len(readmes.TEXTS[readmes.FRONT_PAGE].splitlines()) <= 305


def test_the_first_screen_has_the_pictures_the_two_commands_and_a_link_for_each_reader():
    start = readmes.TEXTS[readmes.FRONT_PAGE].split("\n## ")[0]
    assert len(start.splitlines()) <= 25
    pictures = ["infrastructure/local/screen.svg", "infrastructure/local/viewer/trace.png"]
    assert re.findall(r'^<img src="([^"]+)" width="49%" alt="[^"]+">$', start, re.M) == pictures
    assert "```bash\nmake demo # runs the whole path and shows the trace\nmake test # tests it\n```" in start
    readers = re.findall(r"^\| (\w[^|]+) \| .*?\]\(([^)]+)\)", start, re.M)
    assert readers == [
        ("see it", readmes.DEMO),
        ("copy it", "#opentelemetry-implementation-details"),
        ("run it on AWS", readmes.AWS),
    ]


def test_the_golden_trace_is_shown_as_it_is_asserted():
    assert readmes.blocks("text").count(GOLDEN_TRACE) == 1


def test_the_printed_demo_shows_the_golden_trace():
    printed = next(block for block in readmes.blocks("text") if block.startswith("Starting "))
    assert [line for line in GOLDEN_TRACE.splitlines() if f"\n  {line}" not in printed] == []


@pytest.mark.parametrize("block", readmes.blocks("python") + readmes.blocks("yaml"))
def test_code_in_a_readme_is_code_in_a_file(block):
    lines = [line for line in block.splitlines() if line]

    def shows(source):
        rest = iter((shipped.ROOT / source).read_text().splitlines())
        return all(line in rest for line in lines)  # in this order; what is between them may be left out

    assert [source for source in SOURCES if shows(source)] != []


@pytest.mark.parametrize(("path", "target"), LINKS)
def test_links_into_the_repository_lead_somewhere(path, target):
    if target.startswith("https://"):
        return
    file, _, anchor = target.partition("#")
    there = (shipped.ROOT / path).parent / file if file else shipped.ROOT / path
    assert there.exists()
    if anchor:
        assert anchor in anchors(str(PurePosixPath(there.resolve().relative_to(shipped.ROOT.resolve()))))


NAMED = re.compile(r"((?:`\w+`(?:, | and ))*`\w+`) in \[[^]]+\]\(([^)#]+)\)")


@pytest.mark.parametrize("path", readmes.TEXTS)
def test_a_name_that_is_said_to_be_in_a_file_is_there(path):
    folder = (shipped.ROOT / path).parent
    named = [
        (name, file) for names, file in NAMED.findall(readmes.TEXTS[path]) for name in re.findall(r"`(\w+)`", names)
    ]
    assert [(name, file) for name, file in named if not re.search(rf"\b{name}\b", (folder / file).read_text())] == []
    assert path != readmes.FRONT_PAGE or len(named) >= 5


def test_the_front_page_knows_the_queue_the_mapping_and_the_role():
    text = readmes.TEXTS[readmes.FRONT_PAGE]
    resources = yaml.safe_load((shipped.ROOT / "infrastructure/foundation.yaml").read_text())["Resources"]
    queue = resources["Queue"]["Properties"]
    assert f"the queue's visibility timeout, {queue['VisibilityTimeout']} s" in text
    assert queue["RedrivePolicy"]["maxReceiveCount"] == 5
    assert "after five deliveries moves it to the dead-letter queue" in " ".join(text.split())
    assert shipped.read_json("event-source-mapping.json")["BatchSize"] == 5
    assert "up to five messages at a time" in text
    statements = [
        statement
        for resource in resources.values()
        if resource["Type"] == "AWS::IAM::Role"
        for statement in resource["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
        if "sqs:ReceiveMessage" in statement["Action"]
    ]
    assert [set(statement["Action"]) for statement in statements] == [set(re.findall(r"`(sqs:\w+)`", text))]


def test_the_queues_name_is_in_neither_program():
    assert "in neither program: `git grep -l cal-onboarding-queue" in " ".join(
        readmes.TEXTS[readmes.FRONT_PAGE].split()
    )
    programs = [path for name in ("onboarding-api", "onboarding-lambda") for path in (shipped.ROOT / name).glob("*.py")]
    assert programs
    assert [path for path in programs if "cal-onboarding-" in path.read_text()] == []


def test_the_table_of_dimensions_is_that_of_the_collector():
    collector = yaml.safe_load((shipped.ROOT / "otel/coralogix-collector.yaml").read_text())
    rows = re.findall(r"^\| (`.+?) \|", readmes.section(readmes.TELEMETRY, "### RED metrics"), re.M)
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert named == [dimension["name"] for dimension in collector["connectors"]["span_metrics"]["dimensions"]]


def test_the_limits_of_the_collector_are_those_of_its_files():
    red = yaml.safe_load((shipped.ROOT / "otel/coralogix-collector.yaml").read_text())["connectors"]["span_metrics"]
    rows = dict(
        re.findall(r"^\| ([^|]+) \| ([^|]+) \|", readmes.section(readmes.TELEMETRY, "## The configuration"), re.M)
    )
    hours = int(rows["a series without a new span"].removesuffix(" h"))
    assert red["metrics_expiration"] == red["series_expiration"] == f"{hours}h"
    assert rows["series of one resource"] == f"{red['aggregation_cardinality_limit']:,} for each set"
    cached = rows["resources (service, version, environment and so on)"]
    assert cached.startswith(f"{red['resource_metrics_cache_size']} for each set")
    faults, limit = readmes.TEXTS[readmes.FAULTS], red["aggregation_cardinality_limit"]
    assert f"at most {limit} series for each resource" in faults
    assert f"RED keeps {red['resource_metrics_cache_size']} resources" in faults
    assert f"at most {limit} for a resource" in readmes.TEXTS[readmes.CONTRIBUTING]
    sanitizer = (shipped.ROOT / "otel/sanitizer/sanitizer.go").read_text()
    limits = dict(re.findall(r"(max\w+) += ([\d_]+)", sanitizer))
    bytes_, depth, spans = (int(limits[name]) for name in ("maxBytes", "maxDepth", "maxSpans"))
    assert f"value or span name of more than {bytes_:,} bytes" in rows
    assert f"lists and maps {depth} deep or more" in rows
    assert f"A request of more than {spans:,} spans is rejected" in readmes.TEXTS[readmes.TELEMETRY]


def test_the_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^(\w+):", (shipped.ROOT / "Makefile").read_text(), re.M)
    shown = re.findall(r"^make (\w+)", "".join(readmes.blocks("bash")), re.M)
    spoken_of = [name for text in readmes.TEXTS.values() for name in re.findall(r"`(?:\w+=\S+ )?make (\w+)", text)]
    assert set(shown + spoken_of) <= set(targets)
    assert {"demo", "test"} <= set(shown)


def test_the_costs_name_the_versions_that_are_measured():
    named = readmes.TEXTS[readmes.COSTS].split("Beside it are ")[1].split(".\n")[0]
    pins = "".join(path.read_text() for path in (shipped.ROOT / "tests/bench/peers").glob("*.txt")).splitlines()
    versions = ["==".join(peer.split()) for peer in re.split(r",\s+|\s+and\s+", named)]
    assert [version for version in versions if version not in pins] == []


def test_the_repository_structure_names_what_is_there():
    structure = next(block for block in readmes.blocks("text") if block.startswith("onboarding-api/"))
    names = re.findall(r"[\w.-]+\.\w+|^[\w/-]+", structure, re.M)
    files = {path.name for path in shipped.ROOT.rglob("*") if ".venv" not in path.parts}
    assert [name for name in names if name.rstrip("/").split("/")[-1] not in files] == []
