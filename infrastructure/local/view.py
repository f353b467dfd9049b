"""What the demo prints and the tests assert: a trace as a tree, and RED metrics as rows."""

from typing import NamedTuple


class RedRow(NamedTuple):
    """Rate, errors and duration of one service and span name (compact metrics have none)."""

    service: str
    span: str
    kind: str
    calls: int
    errors: int
    mean_ms: float


def walk(spans):
    """Yield (depth, span) of one trace, children under their parent in the order in which they began.

    A span whose parent is not among spans is a root.
    """
    ids = {span.span_id for span in spans}
    children = {}
    for span in sorted(spans, key=lambda span: span.start):
        parent = span.parent_span_id if span.parent_span_id in ids else ""
        children.setdefault(parent, []).append(span)

    def below(parent, depth):
        for span in children.get(parent, []):
            yield depth, span
            yield from below(span.span_id, depth + 1)

    return below("", 0)


def tree(spans):
    """Return the projection that tests/golden-trace.txt holds: indented name, kind and service of each span."""
    return "".join(f"{line(depth, span)}\n" for depth, span in walk(spans))


def line(depth, span):
    """Return one line of the tree."""
    return f"{'  ' * depth + span.name:<26} {span.kind:<9} {span.service}"


def trace_of(spans, trace_id):
    """Return the spans of one trace."""
    return [span for span in spans if span.trace_id == trace_id]


def red_key(point):
    """Return (service, span, kind) of a point: any that the Collector can make, its overflow series included."""
    labels = point.resource | point.attributes
    service, span, kind = (str(labels.get(name, "")) for name in ("service.name", "span.name", "span.kind"))
    return service, "(overflow)" if "otel.metric.overflow" in labels else span, kind.removeprefix("SPAN_KIND_")


def is_error(point):
    """Return whether a point counts spans with the status ERROR."""
    return point.attributes.get("status.code") == "STATUS_CODE_ERROR"


def red(points, prefix=""):
    """Return the RedRows out of the newest points; prefix is "" for standard metrics and "compact." for compact."""
    rows = {}
    for point in points:
        key = red_key(point)
        calls, errors, count, total = rows.get(key, (0, 0, 0, 0.0))
        if point.name == f"{prefix}calls":
            calls += point.value
            errors += point.value if is_error(point) else 0
        elif point.name == f"{prefix}duration":
            count, total = count + point.value.count, total + point.value.sum
        else:
            continue
        rows[key] = (calls, errors, count, total)
    return [RedRow(*key, calls, errors, ms / max(count, 1)) for key, (calls, errors, count, ms) in sorted(rows.items())]
