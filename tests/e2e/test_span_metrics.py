"""The RED metrics that the real Collector makes of the spans, with the shipped configuration."""

from collections import Counter

import pytest

from stack import poll_until

CUMULATIVE = 2  # https://github.com/open-telemetry/opentelemetry-proto: AggregationTemporality
BUCKETS_MS = [2, 4, 6, 8, 10, 50, 100, 200, 400, 800, 1000, 1400, 2000, 5000, 10000, 15000]
STANDARD = ["span.name", "http.method", "http.status_code", "http.response.status_code", "service.version"]
DIMENSIONS = {"": STANDARD, "compact.": []}


def labels_of(span, dimensions):
    """Return the label set, as sorted pairs of text, that a span is to be counted under."""
    labels = {"service.name": span.service, "span.kind": f"SPAN_KIND_{span.kind}"}
    labels["status.code"] = f"STATUS_CODE_{span.status}"
    found = {"span.name": span.name, **span.resource, **span.attributes}
    labels |= {name: str(found[name]) for name in dimensions if name in found}
    return tuple(sorted(labels.items()))


def series(points, name, count):
    """Return {label set: count(point)} of one metric, without the label that says which Collector counted."""

    def labels(point):
        return tuple(sorted((key, str(v)) for key, v in point.attributes.items() if key != "collector.instance.id"))

    return {labels(point): count(point) for point in points if point.name == name}


@pytest.fixture(scope="module", autouse=True)
def mixed_traffic(stack, onboard, call):
    """Requests that are accepted, one that is rejected, a record that fails, one whose context speaks of sampling."""
    onboard()
    onboard("/customers")
    assert call("GET", "/nowhere")[0] == 404
    stack.sqs.send_message(QueueUrl=stack.queue_url, MessageBody="[]")
    context = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01", "tracestate": "ot=th:ffffffffffffff"}
    stack.sqs.send_message(
        QueueUrl=stack.queue_url,
        MessageBody='{"customer_id": "TEST-001", "request_id": "1"}',
        MessageAttributes={name: {"DataType": "String", "StringValue": text} for name, text in context.items()},
    )
    poll_until(lambda: any(span.trace_id == "ab" * 16 for span in stack.ingress.spans()), "its span")
    poll_until(lambda: any(span.status == "ERROR" for span in stack.ingress.spans()), "a failed record")
    stack.sqs.purge_queue(QueueUrl=stack.queue_url)  # or it would come back among the records of other tests


@pytest.mark.parametrize("prefix", ["", "compact."], ids=["standard", "compact"])
def test_every_span_is_counted_once_under_exactly_its_labels(stack, prefix):
    def expected():
        return Counter(labels_of(span, DIMENSIONS[prefix]) for span in stack.ingress.spans())

    def calls():
        return series(stack.ingress.points(), f"{prefix}calls", lambda point: point.value)

    def durations():
        return series(stack.ingress.points(), f"{prefix}duration", lambda point: point.value.count)

    poll_until(lambda: expected() == calls() == durations(), "calls and durations equal to the spans")
    assert {dict(labels)["service.name"] for labels in calls()} == {"onboarding-api", "onboarding-lambda"}
    assert any(dict(labels)["status.code"] == "STATUS_CODE_ERROR" for labels in calls())


@pytest.mark.parametrize("prefix", ["", "compact."], ids=["standard", "compact"])
def test_names_units_temporality_and_buckets_are_those_coralogix_reads(stack, prefix):
    def find():
        return {p.name: p for p in stack.ingress.points() if p.name in (f"{prefix}calls", f"{prefix}duration")}

    points = poll_until(lambda: find() if len(find()) == 2 else None, "both metrics")
    duration = points[f"{prefix}duration"]
    assert (duration.unit, duration.temporality) == ("ms", CUMULATIVE)
    assert list(duration.value.explicit_bounds) == BUCKETS_MS
    assert points[f"{prefix}calls"].temporality == CUMULATIVE


def test_only_the_four_metrics_of_the_two_sets_arrive(stack):
    poll_until(stack.ingress.points, "metrics")
    metrics = {"calls", "duration", "compact.calls", "compact.duration"}
    assert {point.name for point in stack.ingress.points()} <= metrics


def test_metrics_are_filed_under_the_application_and_subsystem_of_their_service(stack):
    subsystems = {"onboarding-api": "api", "onboarding-lambda": "lambda"}
    for service, subsystem in subsystems.items():

        def find(service=service):
            return [p for p in stack.ingress.points() if p.attributes["service.name"] == service]

        for point in poll_until(find, f"metrics of {service}"):
            assert point.resource["cx.application.name"] == "onboarding"
            assert point.resource["cx.subsystem.name"] == subsystem
