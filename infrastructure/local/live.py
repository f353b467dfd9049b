"""The live view of make demo: the last request's trace, RED of every service and span, counts, and log lines below.

However long it runs, it keeps one number set for each series and the last WINDOW seconds, and reads only what is new.
"""

from __future__ import annotations

import collections
import contextlib
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

import view
from view import is_error, red_key

if TYPE_CHECKING:
    from ingress import Point, Span
    from stack import Stack
    from trace_viewer import TraceViewer

WINDOW = 10  # seconds that calls/s and p95 are about
PLAIN_EVERY = 10  # seconds between two summaries where there is no terminal
SETTLED = 2  # seconds after which a request is shown even if the function has not processed its message
NARROW = 80  # columns; on fewer, services go without what all their names begin with
MAX_LINES = 20  # that a program may print in one turn; further ones are counted
HINT = """The demo stays up until Ctrl-C. In another terminal:

  curl http://{address}/telemetry/smoke \\
    -H 'Content-Type: application/json' \\
    -d '{{"customer_id":"TEST-002"}}'
  ./generate-sustained-traffic.sh {address} 60 1"""


class RedTotals:
    """Rate, errors and duration, summed up from cumulative points; a series that begins anew goes on counting."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str, str], Counter] = {}
        self._total: dict[tuple[str, str, str], Counter] = collections.defaultdict(Counter)
        self._window: collections.deque = collections.deque(maxlen=WINDOW)
        self._updated: float | None = None

    def update(self, points: Iterable[Point], now: float) -> None:
        """Take the newest points of all series; now: seconds on a clock that never goes back."""
        growth: dict[tuple[str, str, str], Counter] = collections.defaultdict(Counter)
        for point in points:
            if point.name in ("calls", "duration"):
                series, values = (point.name, str(point.attributes), str(point.resource)), numbers(point)
                before = self._newest.get(series, Counter())
                growth[red_key(point)] += values - before if before <= values else values
                self._newest[series] = values
        for key, values in growth.items():
            self._total[key] += values
        if self._updated is not None:
            self._window.append((now - self._updated, growth))
        self._updated = now

    def rows(self) -> list[tuple[str, ...]]:
        """Return (service, span, kind, calls, errors, calls/s, p95 ms) as text, sorted."""
        return [(*key, *self._cells(key)) for key in sorted(self._total)]

    def _cells(self, key: tuple[str, str, str]) -> tuple[str, ...]:
        seconds = sum(seconds for seconds, _ in self._window)
        recent: Counter = sum((growth[key] for _, growth in self._window if key in growth), Counter())
        calls, errors = self._total[key]["calls"], self._total[key]["errors"]
        share = f"{errors} {errors / calls:.0%}" if errors else "0"
        return str(calls), share, f"{recent['calls'] / max(seconds, 1):.1f}", quantile(recent, 0.95)


def numbers(point: Point) -> Counter:
    """Return a point's counts: calls and errors, or {upper bound of the bucket in ms: spans}."""
    if point.name == "duration":
        bounds = (*point.value.explicit_bounds, math.inf)
        return Counter(dict(zip(bounds, point.value.bucket_counts, strict=True)))
    return Counter(calls=point.value, errors=point.value if is_error(point) else 0)


def quantile(values: Counter, share: float) -> str:
    """Return, as text, the bucket in which that share of the spans is reached: a histogram knows no more."""
    buckets = sorted((bound, count) for bound, count in values.items() if not isinstance(bound, str))
    reached, wanted, below = 0, share * sum(count for _, count in buckets), 0
    for bound, count in buckets:
        reached += count
        if count and reached >= wanted:
            return f">{below:g}" if bound == math.inf else f"<={bound:g}"
        below = bound
    return "-"


class Log:
    """The lines the program called name adds to its log, an open text file, from now on."""

    def __init__(self, name: str, file: TextIO):
        self._name, self._file = name, file
        file.seek(0, os.SEEK_END)

    def lines(self) -> list[str]:
        """Return what is to be shown of the whole lines added since the last call."""
        added = []
        while True:
            begin = self._file.tell()
            if not (line := self._file.readline()).endswith("\n"):
                self._file.seek(begin)  # the rest of it is still to come
                break
            added.append(line)
        found = view.ours(self._name, added)
        more = len(found) - MAX_LINES
        return found[:MAX_LINES] + ([f"  {self._name}: and {more} more lines"] if more > 0 else [])


class Source:
    """What the view shows of a running demo; counts: what arrived and what waits, in words, as of the last update.

    coralogix: returns how many spans an account has accepted, or is None; viewer: the trace viewer, or None.
    """

    def __init__(self, stack: Stack, viewer: TraceViewer | None, coralogix: Callable[[], int] | None = None):
        self.stack, self.viewer, self._coralogix = stack, viewer, coralogix
        self.red = RedTotals()
        self.counts = ""

    def update(self) -> None:
        """Take the newest metrics, and say in words what arrived and what waits."""
        self.red.update(self.stack.ingress.points(), time.monotonic())
        accepted = [f"{self._coralogix()} spans accepted by Coralogix"] if self._coralogix else []
        self.counts = ", ".join([f"{self.stack.ingress.received} spans received", *accepted, *queues(self.stack)])

    def trace(self) -> list[Span]:
        """Return the spans of the last request."""
        return last_request(self.stack.ingress.spans(), time.time())

    def viewer_state(self, trace_id: str) -> str:
        """Return how far the trace viewer is, or where it shows a trace."""
        return self.viewer.state(trace_id) if self.viewer else ""


def last_request(spans: Iterable[Span], now: float) -> list[Span]:
    """Return the spans of the newest request that the function has processed, or of a newer one that is SETTLED.

    now: seconds since 1970. A trace that would grow while one looks at it is so left out, unless it is all there is.
    """
    traces: dict[str, list[Span]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, []).append(span)
    newest: list[Span] = []
    for trace in sorted((t for t in traces.values() if view.is_request(t)), key=lambda t: min(s.start for s in t)):
        processed = any(span.kind == "CONSUMER" for span in trace)
        if not newest or processed or now - max(span.end for span in trace) / 1e9 > SETTLED:
            newest = trace
    return newest


def queues(stack: Stack) -> Iterator[str]:
    """Return how many messages there are, in words."""
    from botocore.exceptions import BotoCoreError, ClientError

    for name, url in (("the queue", stack.queue_url), ("the dead-letter queue", stack.dead_letter_queue_url)):
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        try:
            depth = stack.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
            yield f"{sum(int(depth[name]) for name in names)} in {name}"
        except (BotoCoreError, ClientError):  # if it is for good, the next turn names the process that has died
            yield f"no response from {name}"


def hint(stack: Stack) -> str:
    """Return what to type in another terminal."""
    return HINT.format(address=stack.url.removeprefix("http://"))


def follow(source: Source) -> None:
    """Show what happens until an exception ends it; raises StackError when a process dies."""
    console = Console(highlight=False)
    programs = (source.stack.api, source.stack.function)
    with contextlib.ExitStack() as opened:
        logs = [Log(p.name, opened.enter_context(p.log_file.open(errors="replace"))) for p in programs]
        print(f"\n{hint(source.stack)}\n", flush=True)  # now that no line is missed that comes of it
        if console.is_terminal and not console.is_dumb_terminal:
            opened.enter_context(screen := Screen(console, source, hint(source.stack)))
            show = screen.show
        else:
            console.width = 100
            show = Plain(console, source).show
        drawn = -math.inf
        while True:
            source.stack.check_running()
            lines = [line for log in logs for line in log.lines()]
            due = time.monotonic() - drawn >= 1
            if due:
                source.update()
                drawn = time.monotonic()
            show(lines, due)
            time.sleep(0.2)


class Screen:
    """The whole terminal, drawn anew; a context manager that gives the terminal back as it was.

    From top to bottom: the trace, RED, counts, the viewer, what to type, log lines; what has no room is left out from
    the end, log lines before what to type, which is never cut.
    """

    def __init__(self, console: Console, source: Source, hint: str):
        self._console, self._source, self._hint = console, source, hint
        self._lines: collections.deque[str] = collections.deque(maxlen=200)
        self._live = Live(console=console, screen=True, auto_refresh=False)
        self._drawn: tuple[object, ...] = ()

    def __enter__(self) -> Screen:
        self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, lines: list[str], due: bool) -> None:
        """Draw the screen if anything on it has changed: lines and its size at once, the rest when due."""
        self.add_lines(lines)
        size = self._console.size
        if due or lines or self._drawn[:1] != (size,):
            trace = self._source.trace()
            state = self._source.viewer_state(trace[0].trace_id if trace else "")
            content = size, trace, self._source.red.rows(), self._source.counts, state, tuple(self._lines)
            if content != self._drawn:
                self._drawn = content
                self._live.update(self.render(trace, state), refresh=True)

    def add_lines(self, lines: list[str]) -> None:
        """Take log lines, to be shown as far as there is room."""
        self._lines += lines

    def render(self, trace: list[Span], viewer_state: str) -> RenderableType:
        """Return what fits on the screen."""
        width, height = self._console.size
        narrow = width < NARROW
        trace_id = trace[0].trace_id if trace else ""
        rows = self._source.red.rows()
        top = [
            Text(f"The last request, trace {trace_id}", "bold"),
            *trace_tree(trace, max(4, height - 12 - min(len(rows), 5)), narrow),
            Text(),
            red_table(rows[: max(5, height - 12 - len(trace))], narrow),
            Text(self._source.counts),
            *([Text(f"trace viewer: {viewer_state}")] if viewer_state else []),
        ]
        hint = [Text(), Text(self._hint, "dim", no_wrap=True)]
        room = height - self._height(top)
        if room >= self._height(hint) and width >= max(map(len, self._hint.splitlines())):  # to be copied whole
            top += hint
            room -= self._height(hint)
        if room > 1:
            top += [Text(), *(log_line(line) for line in list(self._lines)[1 - room :])]
        return Group(*top)

    def _height(self, renderables: Sequence[RenderableType]) -> int:
        return len(self._console.render_lines(Group(*renderables), pad=False))


class Plain:
    """Lines for whatever is no terminal: log lines as they come, and a summary when it is a new one."""

    def __init__(self, console: Console, source: Source):
        self._console, self._source = console, source
        self._at, self._text = -math.inf, ""

    def show(self, lines: list[str], due: bool) -> None:
        """Print new lines, and every PLAIN_EVERY seconds the summary if anything in it is new."""
        news = self._source.viewer.news() if self._source.viewer else []
        for line in (*news, *lines):
            self._console.print(Text(line), soft_wrap=True)
        if not due or time.monotonic() - self._at < PLAIN_EVERY:
            return
        trace = self._source.trace()
        title = [Text(), Text(f"The last request, trace {trace[0].trace_id}")] if trace else []
        table = red_table(self._source.red.rows())
        summary = Group(*title, *trace_tree(trace, len(trace)), Text(), table, Text(self._source.counts))
        with self._console.capture() as captured:
            self._console.print(summary)
        if captured.get() != self._text:
            self._at, self._text = time.monotonic(), captured.get()
            self._console.print(summary)


def trace_tree(spans: list[Span], most: int, narrow: bool = False) -> list[RenderableType]:
    """Return a trace with durations and errors; beyond so many rows only the newest below the first three."""
    walked = list(view.walk(spans))
    if left_out := max(0, len(walked) - most):
        walked = walked[:3] + walked[3 + left_out :]
    tree = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for _ in range(3):
        tree.add_column(overflow="ellipsis")
    tree.add_column(justify="right", no_wrap=True, min_width=11)
    tree.add_column(no_wrap=True, min_width=5)
    for depth, span in walked:
        failed = view.failed(span)
        words = "  " * (depth + 1) + span.name, span.kind, service_name(span.service, narrow)
        cells = [Text(word, no_wrap=True, overflow="ellipsis") for word in words]
        duration = f"{view.milliseconds(span):.1f} ms"
        tree.add_row(*cells, duration, "ERROR" if failed else "", style="red" if failed else "")
    below: list[RenderableType] = []
    if left_out:
        below.append(Text(f"  {left_out} older spans are not shown"))
    if errors := [span for _, span in walked if view.failed(span)]:
        below.append(log_line(f"  {errors[-1].name}: {view.error_message(errors[-1])}", "red"))
    return [tree, *below]


def red_table(rows: list[tuple[str, ...]], narrow: bool = False) -> Table:
    """Return the RED metrics; where it is narrow, words are cut, and no number."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("service", "span", "kind"):
        table.add_column(heading, overflow="ellipsis")
    for heading, width in (("calls", 6), ("errors", 8), ("calls/s", 7), ("p95 ms", 7)):
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    for row in rows:
        named = (service_name(row[0], narrow), *row[1:3])
        words = [Text(word, no_wrap=True, overflow="ellipsis") for word in named]
        table.add_row(*words, *row[3:], style="red" if row[4] != "0" else "")
    return table


def service_name(name: str, narrow: bool) -> str:
    """Return what there is room for of a service's name."""
    return name.removeprefix("onboarding-") if narrow else name


def log_line(text: str, style: str = "") -> Text:
    """Return one line that is cut where the screen ends."""
    return Text(text, style or ("red" if "failed " in text else ""), no_wrap=True, overflow="ellipsis", end="\n")
