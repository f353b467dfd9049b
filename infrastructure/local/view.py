"""What the demo prints and the tests assert: a trace as a tree, and RED metrics as rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ingress import Point, Span

# What the log lines have that this project's code writes.
WORDS = ("PRODUCER ", "extracted ", "onboarded ", "failed ", "Flush ")


class RedRow(NamedTuple):
    """Rate, errors and duration of one service and span name (compact metrics have none)."""

    service: str
    span: str
    kind: str
    calls: int
    errors: int
    mean_ms: float


def walk(spans: list[Span]) -> Iterator[tuple[int, Span]]:
    """Yield (depth, span) of one trace, children under their parent in the order in which they began.

    A span whose parent is not among spans is a root.
    """
    ids = {span.span_id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda span: span.start):
        parent = span.parent_span_id if span.parent_span_id in ids else ""
        children.setdefault(parent, []).append(span)

    def below(parent: str, depth: int) -> Iterator[tuple[int, Span]]:
        for span in children.get(parent, []):
            yield depth, span
            yield from below(span.span_id, depth + 1)

    return below("", 0)


def tree(spans: list[Span]) -> str:
    """Return the projection that tests/golden-trace.txt holds: indented name, kind and service of each span."""
    return "".join(f"{line(depth, span)}\n" for depth, span in walk(spans))


def line(depth: int, span: Span) -> str:
    """Return one line of the tree."""
    return f"{'  ' * depth + span.name:<26} {span.kind:<9} {span.service}"


def described(spans: list[Span]) -> str:
    """Return the tree with durations, and ERROR with its message below where a span has failed."""
    lines = []
    for depth, span in walk(spans):
        lines.append(f"  {line(depth, span):<55} {milliseconds(span):8.1f} ms{'  ERROR' * failed(span)}")
        if failed(span):
            lines.append(f"  {'  ' * (depth + 1)}{error_message(span)}")
    return "\n".join(lines)


def milliseconds(span: Span) -> float:
    """Return a span's duration."""
    return (span.end - span.start) / 1e6


def failed(span: Span) -> bool:
    """Return whether a span is an error."""
    return span.status == "ERROR"


def error_message(span: Span) -> str:
    """Return the first line of what went wrong in a span."""
    return span.status_message.partition("\n")[0]


def is_request(spans: list[Span]) -> bool:
    """Return whether it is the trace of a request to the API; the function's invocations are traces, too."""
    return any(span.kind == "SERVER" and span.service == "onboarding-api" for span in spans)


def trace_of(spans: Iterable[Span], trace_id: str) -> list[Span]:
    """Return the spans of one trace."""
    return [span for span in spans if span.trace_id == trace_id]


def red_key(point: Point) -> tuple[str, str, str]:
    """Return (service, span, kind) of a point: any that the Collector can make, its overflow series included."""
    labels = point.resource | point.attributes
    service, span, kind = (str(labels.get(name, "")) for name in ("service.name", "span.name", "span.kind"))
    return service, "(overflow)" if "otel.metric.overflow" in labels else span, kind.removeprefix("SPAN_KIND_")


def is_error(point: Point) -> bool:
    """Return whether a point counts spans with the status ERROR."""
    return point.attributes.get("status.code") == "STATUS_CODE_ERROR"


def red(points: Iterable[Point], prefix: str = "") -> list[RedRow]:
    """Return the RedRows out of the newest points; prefix is "" for standard metrics and "compact." for compact."""
    rows: dict[tuple[str, str, str], tuple[int, int, int, float]] = {}
    for point in points:
        key, value = red_key(point), point.value
        calls, errors, count, total = rows.get(key, (0, 0, 0, 0.0))
        if point.name == f"{prefix}calls":
            calls += value
            errors += value if is_error(point) else 0
        elif point.name == f"{prefix}duration":
            count, total = count + value.count, total + value.sum
        else:
            continue
        rows[key] = (calls, errors, count, total)
    return [RedRow(*key, calls, errors, ms / max(count, 1)) for key, (calls, errors, count, ms) in sorted(rows.items())]


def ours(name: str, lines: Iterable[str]) -> list[str]:
    """Return, ready to print, those of a program's log lines that this project's code has written."""
    # The Lambda runtime's level, time and request id take half a screen's width; they are in the file.
    texts = [line.rstrip().split("\t", 3)[-1].expandtabs(1) for line in lines]
    return [f"  {name}: {text}" for text in texts if any(word in text for word in WORDS)]
