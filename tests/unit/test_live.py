"""The live view of make demo: what it makes of points, and of log lines that are written while it reads."""

import html
import io
import math
import re
from collections import Counter
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console

import live
import shipped
import view
from ingress import Point, Span

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
    assert red.rows() == [("onboarding-api", "POST /customers", "SERVER", "110", "0", "5.0", "<=50")]


def test_what_is_older_than_the_window_has_no_part_in_the_rate():
    red = live.RedTotals()
    for second in range(live.WINDOW + 5):
        red.update([point("calls", min(second, 3))], now=second)
    assert red.rows() == [("onboarding-api", "POST /customers", "SERVER", "3", "0", "0.0", "-")]


def test_errors_are_counted_with_their_share():
    red = live.RedTotals()
    red.update([point("calls", 30), point("calls", 10, status="ERROR")], now=0)
    assert red.rows()[0][3:5] == ("40", "10 25%")


def test_a_series_that_begins_anew_goes_on_counting_beside_the_others():
    red = live.RedTotals()
    red.update([point("calls", 30), point("calls", 10, status="ERROR")], now=0)
    red.update([point("calls", 31), point("calls", 2, status="ERROR")], now=1)
    assert red.rows()[0][3:6] == ("43", "12 28%", "3.0")


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
        ({10: 95, 50: 5}, "<=10"),
        ({10: 94, 50: 6}, "<=50"),
        ({10: 1, 50: 0, math.inf: 1}, ">50"),
        ({"calls": 5, 10: 1}, "<=10"),
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
    log.write("INFO PRODUCER x\n" * (live.MAX_LINES + 7))
    assert log.lines() == ["  api: INFO PRODUCER x"] * live.MAX_LINES + ["  api: and 7 more lines"]


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


NOW = 1000.0
HINT = "The demo stays up\n\n  curl http://127.0.0.1:8000/telemetry/smoke"


def span(name, kind, parent="", trace="a", began=1.0, status="UNSET", message=""):
    """A span; its id is its name, its times are in seconds."""
    service = "onboarding-lambda" if name.startswith(("sqs.process", "sqs.batch")) else "onboarding-api"
    start, end = int(began * 1e9), int(began * 1e9) + 12_345_600_000
    return Span(name, kind, service, trace, name, parent, start, end, status, message, {}, {}, [], [])


def request(trace="a", began=1.0, processed=1, **process):
    """The spans of one request."""
    path = [("POST /telemetry/smoke", "SERVER", ""), ("sqs.send", "PRODUCER", "POST /telemetry/smoke")]
    spans = [span(*words, trace=trace, began=began) for words in [*path, ("SQS.SendMessage", "CLIENT", "sqs.send")]]
    later = range(processed)
    return spans + [span("sqs.process", "CONSUMER", "sqs.send", trace, began + 1 + n, **process) for n in later]


class Source:
    """What the screen shows, without a stack."""

    def __init__(self, spans, rows=5):
        self.red = SimpleNamespace(
            rows=lambda: (
                [("onboarding-api", "POST /telemetry/smoke", "PRODUCER", "123456", "12345 10%", "1234.5", "<=15000")]
                * rows
            )
        )
        self.trace = lambda: live.last_request(spans, NOW)
        self.counts = "5 spans received, 0 in the queue, 0 in the dead-letter queue"
        self.viewer_state = lambda trace_id: f"http://127.0.0.1:8003/traces/{trace_id}"
        self.viewer = None


def drawn(spans, width=80, height=24, lines=(), rows=5, hint=HINT):
    """Return the lines of a screen."""
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None, force_terminal=True)
    screen = live.Screen(console, source := Source(spans, rows), hint)
    screen.add_lines(list(lines))
    rendered = screen.render(source.trace(), source.viewer_state("a"))
    return ["".join(segment.text for segment in line).rstrip() for line in console.render_lines(rendered)]


def test_the_screen_shows_trace_red_counts_viewer_and_what_to_type_whole():
    screen = drawn(request())
    assert screen[0] == "The last request, trace a"
    assert [line.split() for line in screen[1:5]] == [
        ["POST", "/telemetry/smoke", "SERVER", "onboarding-api", "12345.6", "ms"],
        ["sqs.send", "PRODUCER", "onboarding-api", "12345.6", "ms"],
        ["SQS.SendMessage", "CLIENT", "onboarding-api", "12345.6", "ms"],
        ["sqs.process", "CONSUMER", "onboarding-lambda", "12345.6", "ms"],
    ]
    assert [line.index(line.split()[0]) for line in screen[1:5]] == [2, 4, 6, 6]
    assert screen[6].split() == ["service", "span", "kind", "calls", "errors", "calls/s", "p95", "ms"]
    row = "onboarding-api POST /telemetry/smoke PRODUCER 123456 12345 10% 1234.5 <=15000"
    assert [" ".join(line.split()) for line in screen[7:12]] == [row] * 5
    assert screen[12:14] == [
        "5 spans received, 0 in the queue, 0 in the dead-letter queue",
        "trace viewer: http://127.0.0.1:8003/traces/a",
    ]
    assert screen[15:18] == HINT.splitlines()


@pytest.mark.parametrize("width", [80, 60])
def test_no_number_is_cut(width):
    screen = drawn(request(), width)
    assert max(map(len, screen)) <= width
    assert [line.split()[-2:] for line in screen[1:5]] == [["12345.6", "ms"]] * 4
    assert [line.split()[-5:] for line in screen[7:12]] == [["123456", "12345", "10%", "1234.5", "<=15000"]] * 5


def test_both_services_can_be_told_apart_where_it_is_narrow():
    screen = drawn(request(), 60)
    assert [line.split()[-3] for line in screen[1:5]] == ["api", "api", "api", "lambda"]
    assert [line.split()[0] for line in screen[7:12]] == ["api"] * 5


@pytest.mark.parametrize("width", [80, 60, 53, 52, 40])
def test_what_to_type_is_shown_whole_or_not_at_all(width):
    hint = live.HINT.format(address="127.0.0.1:8000")
    screen = drawn(request(), width, hint=hint)
    shown = "\n".join(screen)
    assert (hint in shown) == (width >= 53)
    assert ("curl" in shown) == (width >= 53)


@pytest.mark.parametrize(("width", "height"), [(20, 5), (40, 12), (80, 10), (200, 60)])
def test_any_screen_can_be_drawn(width, height):
    wide = [span("\u5ba2" * 2000, "SERVER"), *request(processed=30, status="ERROR", message="\u5ba2" * 500)]
    assert max(cell_len(line) for line in drawn(wide, width, height, lines=["x" * 5000], rows=300)) <= width


def test_log_lines_have_what_room_is_left_and_the_newest_stay():
    screen = drawn(request(), lines=[f"  api: onboarded {n} " + "x" * 100 for n in range(50)])
    assert len(screen) == 24
    assert screen[15:18] == HINT.splitlines()
    assert [line.split()[2] for line in screen[19:]] == ["45", "46", "47", "48", "49"]
    assert {len(line) for line in screen[19:]} == {80}


@pytest.mark.parametrize("height", [24, 16])
def test_a_message_that_fails_again_and_again_leaves_room_for_the_rest(height):
    failing = request(processed=20, status="ERROR", message="RuntimeError: simulated failure\nmore")
    screen = drawn(failing, height=height)
    assert len(screen) <= height
    assert screen[1].split()[:2] == ["POST", "/telemetry/smoke"]
    newest = next(line for line in reversed(screen) if line.split()[:1] == ["sqs.process"])
    assert newest.endswith("ERROR")
    assert "  sqs.process: RuntimeError: simulated failure" in screen
    assert any(line.startswith("5 spans received") for line in screen)


def test_the_last_request_is_the_newest_one_that_is_processed_or_settled():
    batch = [span("sqs.batch", "SERVER", trace="batch", began=NOW)]
    first, second, third = request("a", 1), request("b", 2), request("c", NOW - 12.3456, processed=0)
    assert live.last_request([], NOW) == []
    assert live.last_request(batch, NOW) == []
    assert live.last_request(third, NOW) == third
    assert live.last_request(second + first + batch + third, NOW) == second
    assert live.last_request(second + first + batch + third, NOW + live.SETTLED + 1) == third


def test_the_front_pages_picture_shows_the_view_as_it_is():
    picture = html.unescape((shipped.ROOT / "infrastructure/local/screen.svg").read_text()).replace("\xa0", " ")
    texts = [text.strip() for text in re.findall(r">([^<>]+)</text>", picture)]
    for line in (shipped.ROOT / "tests/golden-trace.txt").read_text().splitlines():
        name, kind, service = re.split(r" {2,}", line.strip())[0], *line.split()[-2:]
        assert {name, kind, service} <= set(texts)
    assert [column.header for column in live.red_table([]).columns] == [
        heading for heading in ("service", "span", "kind", "calls", "errors", "calls/s", "p95 ms") if heading in texts
    ]
    assert "@font-face" not in picture
