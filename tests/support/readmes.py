"""The project's prose, for the tests that hold it to the code."""

import re

import shipped

FRONT_PAGE = "README.md"
AWS = "infrastructure/README.md"
DEMO = "infrastructure/local/README.md"
TELEMETRY = "otel/README.md"
TESTS = "tests/README.md"
FAULTS = "tests/faults/README.md"
COSTS = "tests/bench/README.md"
CONTRIBUTING = ".github/CONTRIBUTING.md"
TEXTS = {
    path: (shipped.ROOT / path).read_text()
    for path in (FRONT_PAGE, AWS, DEMO, TELEMETRY, TESTS, FAULTS, COSTS, CONTRIBUTING)
}


def blocks(language, *paths):
    """Return the fenced blocks of one language, of these READMEs or of all."""
    texts = [TEXTS[path] for path in paths or TEXTS]
    return [block for text in texts for block in re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)]


def section(path, heading):
    """Return what stands between a heading, as "## Deploy", and the next one of its rank or a higher one."""
    rank = len(heading.split()[0])
    return re.split(rf"^#{{1,{rank}}} ", TEXTS[path].split(f"\n{heading}\n")[1], maxsplit=1, flags=re.M)[0]
