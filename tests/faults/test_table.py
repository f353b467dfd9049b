"""The table of failures and the drills name each other."""

import re
from pathlib import Path

import readmes


def test_every_row_is_named_after_a_drill_and_every_drill_has_a_row():
    first_cells = re.findall(r"^\| ([^|]*`[^|]*) \|", readmes.TEXTS[readmes.FAULTS], re.MULTILINE)
    rows = {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}
    drills = set()
    for file in Path(__file__).parent.glob("test_*.py"):
        drills.update(re.findall(r"^def test_(\w+)\(drill\b", file.read_text(), re.MULTILINE))
    assert rows == {drill.replace("_", " ") for drill in drills}
