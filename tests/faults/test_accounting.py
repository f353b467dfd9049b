"""The reconciliation itself: what reconciles is accepted, and every kind of loss, repeat and lie is found."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from accounting import Delivery, Evidence, Life, Response, account
from ingress import Point, Span

INVOCATION = "0b4c"
FLUSH, KEPT = "Flush complete accepted=3\n", "accepted=2 remaining=1"


def span(name, kind, service, trace_id, span_id, parent="", **attributes):
    attributes = {key.replace("__", "."): value for key, value in attributes.items()}
    return Span(name, kind, service, trace_id, span_id, parent, 0, 1, "UNSET", "", attributes, {}, [], [])


def points(spans):
    """Return what the Collector would make of the spans, one series a span."""
    made = []
    for one in spans:
        labels = {"service.name": one.service, "span.kind": f"SPAN_KIND_{one.kind}", "status.code": "STATUS_CODE_UNSET"}
        labels["collector.instance.id"] = one.span_id
        for prefix, names in (("", {"span.name": one.name}), ("compact.", {})):
            made.append(Point(f"{prefix}calls", "", 2, {}, labels | names, 1))
            made.append(Point(f"{prefix}duration", "ms", 2, {}, labels | names, SimpleNamespace(count=1)))
    return made


@pytest.fixture
def evidence():
    """Two requests, processed in one invocation; everything arrived."""
    spans = [
        span("sqs.batch", "SERVER", "onboarding-lambda", "b", "b1", faas__invocation_id=INVOCATION),
    ]
    for number in "12":
        consumer = {"messaging__message__id": f"m{number}", "aws__sqs__receive_count": 1}
        trace = f"t{number}"
        spans += [
            span("POST /customers", "SERVER", "onboarding-api", trace, f"{trace}a"),
            span("sqs.send", "PRODUCER", "onboarding-api", trace, f"{trace}b", f"{trace}a"),
            span("SQS.SendMessage", "CLIENT", "onboarding-api", trace, f"{trace}c", f"{trace}b"),
            span(
                *("sqs.process", "CONSUMER", "onboarding-lambda", trace, f"{trace}d", f"{trace}b"),
                faas__invocation_id=INVOCATION,
                **consumer,
            ),
        ]
    lines = [f"onboarded customer_id=c request_id=r{n} message_id=m{n} trace_id=t{n}\n" for n in "12"]
    return Evidence(
        responses=[Response(202, 10.0, 0.1, f"r{number}", f"m{number}", f"t{number}") for number in "12"],
        deliveries=[Delivery(11.0, [("m1", 1), ("m2", 1)], set())],
        function_logs=["".join(lines) + FLUSH],
        spans=spans,
        points=points(spans),
        lives=[Life(9)],
    )


def in_the_log(evidence, change):
    """Change the log of the function's only sandbox."""
    evidence.function_logs = [change(log) for log in evidence.function_logs]


def lose(evidence, name):
    """Let one span of that name get lost behind the Collector."""
    evidence.spans.remove(next(one for one in evidence.spans if one.name == name))


def lose_an_onboarding(evidence):
    in_the_log(evidence, lambda log: log.split("\n", 1)[1])


def drop_from_red(evidence):
    evidence.points.pop(0)


def process_in_another_trace(evidence):
    index = next(i for i, one in enumerate(evidence.spans) if one.name == "sqs.process")
    evidence.spans[index] = evidence.spans[index]._replace(trace_id="t3", parent_span_id="")


def deliver_once_and_onboard_twice(evidence):
    in_the_log(evidence, lambda log: log.split("\n", 1)[0] + "\n" + log)


def lie_about_the_receive_count(evidence):
    index = next(i for i, one in enumerate(evidence.spans) if one.name == "sqs.process")
    attributes = evidence.spans[index].attributes | {"aws.sqs.receive_count": 2}
    evidence.spans[index] = evidence.spans[index]._replace(attributes=attributes)


def test_what_arrived_reconciles(evidence):
    row = account("none", evidence)
    assert (row.problems, row.accepted, row.processed) == ([], 2, 2)
    assert (row.ended, row.received, row.lost, row.uncounted, row.twice) == (9, 9, 0, 0, 0)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(lose_an_onboarding, "M1: 1 accepted messages are nowhere", id="accepted and not processed"),
        pytest.param(lose_an_onboarding, "M2: 1 messages were reported as successful", id="reported and not processed"),
        pytest.param(lambda e: e.responses.pop(), "M1: 1 messages nobody sent", id="processed and never sent"),
        pytest.param(deliver_once_and_onboard_twice, "M2: 1 messages were onboarded again", id="processed twice"),
        pytest.param(lie_about_the_receive_count, "M2: spans of deliveries that never were", id="receive count"),
        pytest.param(lambda e: lose(e, "sqs.batch"), "T1: 1 spans are missing without a reason", id="function's span"),
        pytest.param(lambda e: lose(e, "sqs.send"), "T1: 1 spans of the API are missing", id="API's span"),
        pytest.param(lambda e: e.spans.append(e.spans[0]), "T1: 1 spans arrived twice", id="span twice"),
        pytest.param(
            lambda e: in_the_log(e, lambda log: log.replace("accepted=3", "accepted=2")),
            "T1: the function's flushes speak of 2 spans, 3 have ended",
            id="flush that hides a span",
        ),
        pytest.param(
            lambda e: in_the_log(e, lambda log: log.replace(FLUSH, f"Flush incomplete {KEPT} dropped=none c")),
            "T1: the function still keeps 1 spans",
            id="span still kept",
        ),
        pytest.param(drop_from_red, "T2: calls and durations differ", id="call"),
        pytest.param(lambda e: setattr(e, "lives", [Life(10)]), "T2: 1 spans are not in calls", id="span not counted"),
        pytest.param(lambda e: setattr(e, "lives", [Life(8)]), "T2: 1 calls more than spans", id="span counted twice"),
        pytest.param(
            lambda e: e.spans.__setitem__(0, e.spans[0]._replace(name="other")), "T2: spans and calls differ", id="name"
        ),
        pytest.param(process_in_another_trace, "T3: message m1 was processed in another trace", id="another trace"),
    ],
)
def test_what_does_not_reconcile_is_found(evidence, change, problem):
    change(evidence)
    assert any(found.startswith(problem) for found in account("some", evidence).problems)


def test_what_the_function_counts_as_dropped_is_a_reason(evidence):
    lose(evidence, "sqs.batch")
    evidence.lives, evidence.points = [Life(8)], points(evidence.spans)
    line = "Flush incomplete accepted=2 remaining=0 dropped=oversized:1 cause=none\n"
    in_the_log(evidence, lambda log: log.replace(FLUSH, line))
    row = account("oversized", evidence)
    assert (row.problems, row.dropped) == ([], {"oversized": 1})


def test_what_the_api_could_not_send_needs_its_log_line_and_a_fault_at_that_time(evidence):
    lose(evidence, "SQS.SendMessage")
    evidence.lives, evidence.points = [Life(8)], points(evidence.spans)
    evidence.api_log = "ERROR Failed to export traces"
    evidence.faults = [(9.0, 10.5)]
    row = account("api", evidence)
    assert (row.problems, row.dropped) == ([], {"api exporter": 1})
    assert account("silent", replace(evidence, api_log="")).problems
    assert account("late", replace(evidence, faults=[(100.0, 101.0)])).problems


def test_what_a_killed_collector_held_is_a_reason_and_no_more_than_that(evidence):
    lose(evidence, "sqs.batch")
    evidence.lives = [Life(9, "killed"), Life(0)]
    evidence.faults = [(10.0, 12.0)]
    assert account("not killed by the drill", evidence).problems
    evidence.killed = {"otel-collector"}
    row = account("killed", evidence)
    assert (row.problems, row.dropped) == ([], {"died with process": 1})
    evidence.lives, evidence.points = [Life(8, "killed"), Life(0)], points(evidence.spans)
    assert not account("accepted after the last look", evidence).problems
    assert account("at another time", replace(evidence, faults=[(100.0, 101.0)])).problems


def test_each_sandbox_counts_for_itself_and_only_its_last_runtime_still_keeps_spans(evidence):
    log, kept = evidence.function_logs[0], f"Flush incomplete {KEPT} dropped=none cause=c\n"
    evidence.function_logs = [log.replace(FLUSH, ""), FLUSH]
    assert account("two sandboxes", evidence).problems == []
    evidence.function_logs = [log.replace(FLUSH, kept), ""]
    assert "T1: the function still keeps 1 spans" in account("one keeps a span", evidence).problems
    evidence.function_logs = [log.replace(FLUSH, kept) + "INIT START(", ""]
    lose(evidence, "sqs.batch")
    evidence.lives, evidence.points = [Life(8)], points(evidence.spans)
    assert account("its runtime has ended", evidence).dropped == {"died with process": 1}
