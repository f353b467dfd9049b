"""The live view of make demo: log lines above, below them RED of every service and span, queues and counts.

However long it runs, it keeps one number set for each series and the last WINDOW seconds, and reads only what is new.
"""

import collections
import contextlib
import math
import os
import time
from collections import Counter

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from view import is_error, red_key

WINDOW = 10  # seconds that calls/s and p95 are about
PLAIN_EVERY = 10  # seconds between two summaries where there is no terminal
MOST_LINES = 20  # that a program may print in one turn; further ones are counted
WORDS = ("PRODUCER ", "extracted ", "onboarded ", "failed ", "Flush ")


class RedTotals:
    """Rate, errors and duration, summed up from cumulative points; a series that begins anew goes on counting."""

    def __init__(self):
        self._newest = {}
        self._total = collections.defaultdict(Counter)
        self._window = collections.deque(maxlen=WINDOW)
        self._updated = None

    def update(self, points, now):
        """Take the newest points of all series; now: seconds on a clock that never goes back."""
        growth = collections.defaultdict(Counter)
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

    def rows(self):
        """Return (service, span, kind, calls, errors, calls/s, p95 ms) as text, sorted."""
        return [(*key, *self._cells(key)) for key in sorted(self._total)]

    def _cells(self, key):
        seconds = sum(seconds for seconds, _ in self._window)
        recent = sum((growth[key] for _, growth in self._window if key in growth), Counter())
        calls, errors = self._total[key]["calls"], self._total[key]["errors"]
        share = f"{errors} ({errors / calls:.0%})" if errors else "0"
        return str(calls), share, f"{recent['calls'] / max(seconds, 1):.1f}", quantile(recent, 0.95)


def numbers(point):
    """Return a point's counts: calls and errors, or {upper bound of the bucket in ms: spans}."""
    if point.name == "duration":
        bounds = (*point.value.explicit_bounds, math.inf)
        return Counter(dict(zip(bounds, point.value.bucket_counts, strict=True)))
    return Counter(calls=point.value, errors=point.value if is_error(point) else 0)


def quantile(values, share):
    """Return, as text, the bucket in which that share of the spans is reached: a histogram knows no more."""
    buckets = sorted((bound, count) for bound, count in values.items() if not isinstance(bound, str))
    reached, wanted, below = 0, share * sum(count for _, count in buckets), 0
    for bound, count in buckets:
        reached += count
        if count and reached >= wanted:
            return f"> {below:g}" if bound == math.inf else f"<= {bound:g}"
        below = bound
    return "-"


class Log:
    """The lines the program called name adds to its log, an open text file, from now on."""

    def __init__(self, name, file):
        self._name, self._file = name, file
        file.seek(0, os.SEEK_END)

    def lines(self):
        """Return what is to be shown of the whole lines added since the last call."""
        added = []
        while True:
            begin = self._file.tell()
            if not (line := self._file.readline()).endswith("\n"):
                self._file.seek(begin)  # the rest of it is still to come
                break
            added.append(line)
        found = ours(self._name, added)
        more = len(found) - MOST_LINES
        return found[:MOST_LINES] + ([f"  {self._name}: and {more} more lines"] if more > 0 else [])


def ours(name, lines):
    """Return, ready to print, those of a program's log lines that this project's code has written."""
    # The Lambda runtime's level, time and request id take half a screen's width; they are in the file.
    texts = [line.rstrip().split("\t", 3)[-1].expandtabs(1) for line in lines]
    return [f"  {name}: {text}" for text in texts if any(word in text for word in WORDS)]


def follow(stack, news, status):
    """Show what happens until an exception ends it; raises StackError when a process dies.

    news: returns sentences to print once; status: returns words that go below the table.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 100
    red, programs = RedTotals(), (stack.api, stack.function)
    with contextlib.ExitStack() as screen:
        logs = [Log(p.name, screen.enter_context(p.log_file.open(errors="replace"))) for p in programs]
        if console.is_terminal and not console.is_dumb_terminal:
            show = screen.enter_context(Live(console=console, auto_refresh=False)).update
        else:
            show = plain(console)
        while True:
            red.update(stack.ingress.points(), time.monotonic())
            show(summary(red, (*counts(stack), *status())), refresh=True)
            for _ in range(5):
                stack.check_running()
                lines = [*news(), *(line for log in logs for line in log.lines())]
                if lines:  # all at once: below each thing that is printed the summary is drawn again
                    texts = (Text(line, "red" if "failed " in line else "") for line in lines)
                    console.print(Text("\n").join(texts), soft_wrap=True)
                time.sleep(0.2)


def plain(console):
    """Return a function that prints a summary as lines, when PLAIN_EVERY seconds have passed and it is a new one."""
    printed = {"at": -math.inf, "text": ""}

    def show(renderable, refresh):
        with console.capture() as captured:
            console.print(renderable)
        if captured.get() != printed["text"] and time.monotonic() - printed["at"] >= PLAIN_EVERY:
            printed.update(at=time.monotonic(), text=captured.get())
            console.print(renderable)

    return show


def summary(red, words):
    """Return the table and the line below it."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("service", "span", "kind"):
        table.add_column(heading, no_wrap=True)
    for heading, width in (("calls", 6), ("errors", 10), ("calls/s", 7), ("p95 ms", 8)):
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)  # a narrow screen cuts no number
    for row in red.rows():
        table.add_row(*row, style="red" if row[4] != "0" else "")
    return Group(Text(), table, Text(", ".join(words)))


def counts(stack):
    """Return what waits and what arrived, in words."""
    yield f"{stack.ingress.received} spans received"
    for name, url in (("the queue", stack.queue_url), ("the dead-letter queue", stack.dead_letter_queue_url)):
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        try:
            depth = stack.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
            yield f"{sum(int(depth[name]) for name in names)} in {name}"
        except (BotoCoreError, ClientError):  # if it is for good, the next turn names the process that has died
            yield f"no answer from {name}"
