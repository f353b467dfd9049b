"""The stack the drills share, and the table at the end."""

import pytest

from drill import Drill, Keeper

COLUMNS = (
    "fault",
    "accepted",
    "processed",
    "dead-lettered",
    "ended",
    "received",
    "dropped by reason",
    "not in RED",
    "verdict",
)
ROWS = []


@pytest.fixture(scope="session")
def keeper(tmp_path_factory):
    """Keeps the stack between drills."""
    kept = Keeper(tmp_path_factory.mktemp("drills"))
    yield kept
    kept.stop()


@pytest.fixture
def drill(request, keeper):
    """A Drill on the shared stack; its row goes into the table. A drill that fails leaves no stack to the next."""
    failed_before = request.session.testsfailed
    try:
        started = Drill(keeper.stack(), request.node.name.removeprefix("test_").replace("_", " "))
    except BaseException:
        keeper.stop()
        raise
    yield started
    if started.row:
        ROWS.append(started.row)
    if request.session.testsfailed > failed_before:
        keeper.stop()
    else:
        assert started.row, "the drill was not reconciled"


def pytest_terminal_summary(terminalreporter):
    """Print the table."""
    if not ROWS:
        return
    cells = [COLUMNS, *map(_cells, ROWS)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    terminalreporter.section("drills")
    for row in cells:
        terminalreporter.write_line(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        )


def _cells(row):
    ambiguous = f" (+{row.ambiguous} ambiguous)" if row.ambiguous else ""
    received = f"{row.received} (+{row.twice} twice)" if row.twice else row.received
    requests = f" ({row.requests} requests)" if row.requests != row.processed else ""
    numbers = (f"{row.processed}{requests}", row.dead_lettered, row.ended, received)
    dropped = ", ".join(f"{reason} {count}" for reason, count in row.dropped.items()) or "none"
    verdict = "; ".join(row.problems) or "reconciles"
    return (row.fault, f"{row.accepted}{ambiguous}", *map(str, numbers), dropped, str(row.uncounted), verdict)
