"""The live view of make demo: what it makes of points, and of log lines that are written while it reads."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest

import live
import view
from ingress import Point

BOUNDS = (10, 50)


def point(name, value, service="onboarding-api", span="POST /customers", status="UNSET"):
    labels = {"service.name": service, "span.name": span, "span.kind": "SPAN_KIND_SERVER"}
    if name == "duration":
        value = SimpleNamespace(explicit_bounds=BOUNDS, bucket_counts=value)
    return Point(name, "", 2, {}, labels | {"status.code": f"STATUS_CODE_{status}"}, value)


def test_a_row_counts_from_the_start_and_rates_the_last_seconds():
    red = live.RedTotals()
    red.update([point("calls", 100), point("duration", [100, 0, 0])], now=0)
    red.update([point("calls", 110), point("duration", [100, 10, 0])], now=2)
    assert red.rows() == [("onboarding-api", "POST /customers", "SERVER", "110", "0", "5.0", "<= 50")]


def test_what_is_older_than_the_window_has_no_part_in_the_rate():
    red = live.RedTotals()
    for second in range(live.WINDOW + 5):
        red.update([point("calls", min(second, 3))], now=second)
    assert red.rows() == [("onboarding-api", "POST /customers", "SERVER", "3", "0", "0.0", "-")]


def test_errors_are_counted_with_their_share():
    red = live.RedTotals()
    red.update([point("calls", 30), point("calls", 10, status="ERROR")], now=0)
    assert red.rows()[0][3:5] == ("40", "10 (25%)")


def test_a_series_that_begins_anew_goes_on_counting_beside_the_others():
    red = live.RedTotals()
    red.update([point("calls", 30), point("calls", 10, status="ERROR")], now=0)
    red.update([point("calls", 31), point("calls", 2, status="ERROR")], now=1)
    assert red.rows()[0][3:6] == ("43", "12 (28%)", "3.0")


def test_rows_are_sorted_and_other_metrics_left_out():
    red = live.RedTotals()
    red.update([point("calls", 1, "b"), point("calls", 1, "a"), point("compact.calls", 9, "c")], now=0)
    assert [row[0] for row in red.rows()] == ["a", "b"]


def test_nothing_grows_with_time():
    red = live.RedTotals()
    for second in range(1000):
        red.update([point("calls", second), point("duration", [second, 0, 0])], now=second)
    assert len(red._window) == live.WINDOW
    assert len(red._newest) == 2


@pytest.mark.parametrize(
    ("buckets", "text"),
    [
        ({}, "-"),
        ({10: 0, 50: 0, math.inf: 0}, "-"),
        ({10: 95, 50: 5}, "<= 10"),
        ({10: 94, 50: 6}, "<= 50"),
        ({10: 1, 50: 0, math.inf: 1}, "> 50"),
        ({"calls": 5, 10: 1}, "<= 10"),
    ],
)
def test_a_quantile_is_the_bucket_in_which_it_is_reached(buckets, text):
    assert live.quantile(Counter(buckets), 0.95) == text


@pytest.fixture
def log(tmp_path):
    """A program's log file: write to it, read its lines."""
    path = tmp_path / "api.log"
    path.write_text("PRODUCER before the view began\n")
    with path.open() as reading, path.open("a") as writing:
        yield SimpleNamespace(
            lines=live.Log("api", reading).lines, write=lambda text: (writing.write(text), writing.flush())
        )


def test_only_lines_of_this_project_from_now_on_are_shown(log):
    log.write("INFO PRODUCER one\nsomebody else's line\nFlush complete two\n")
    assert log.lines() == ["  api: INFO PRODUCER one", "  api: Flush complete two"]
    assert log.lines() == []


def test_a_line_is_shown_when_it_is_whole(log):
    log.write("INFO PRODUCER one\nINFO PROD")
    assert log.lines() == ["  api: INFO PRODUCER one"]
    log.write("UCER two\n")
    assert log.lines() == ["  api: INFO PRODUCER two"]


def test_the_runtimes_prefix_is_left_out(log):
    log.write("[INFO]\t2026-01-01T00:00:00.000Z\t00000000-0000-0000-0000-000000000000\tonboarded one\ttwo\n")
    assert log.lines() == ["  api: onboarded one two"]


def test_of_a_flood_the_first_lines_are_shown_and_the_rest_is_counted(log):
    log.write("INFO PRODUCER x\n" * (live.MOST_LINES + 7))
    assert log.lines() == ["  api: INFO PRODUCER x"] * live.MOST_LINES + ["  api: and 7 more lines"]


OVERFLOW = {"otel.metric.overflow": True}  # all that the Collector labels it with


@pytest.mark.parametrize(
    ("attributes", "span"),
    [
        pytest.param(OVERFLOW, "(overflow)", id="series beyond the cardinality limit"),
        pytest.param({}, "", id="no labels"),
        pytest.param({"span.name": 5, "span.kind": 5, "status.code": 5}, "5", id="labels that are no text"),
    ],
)
@pytest.mark.parametrize(("resource", "service"), [({"service.name": "a"}, "a"), ({"service.name": 1}, "1"), ({}, "")])
def test_every_series_the_collector_can_make_has_a_row(attributes, span, resource, service):
    histogram = SimpleNamespace(explicit_bounds=(10,), bucket_counts=[3, 0], count=3, sum=6.0)
    odd = [Point("calls", "", 2, resource, attributes, 3), Point("duration", "ms", 2, resource, attributes, histogram)]
    red = live.RedTotals()
    red.update([point("calls", 1), *odd], now=0)
    assert [row[:2] + row[3:4] for row in red.rows()] == sorted(
        [("onboarding-api", "POST /customers", "1"), (service, span, "3")]
    )
    (row,) = [row for row in view.red(odd) if row.service == service]
    assert (row.span, row.calls, row.mean_ms) == (span, 3, 2.0)
