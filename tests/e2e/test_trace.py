"""From a request to the API to the spans at the Coralogix stand-in."""

import json
import uuid

import pytest

import shipped
import view
from stack import poll_until

GOLDEN_TRACE = (shipped.ROOT / "tests/golden-trace.txt").read_text()


@pytest.mark.parametrize("route", ["/telemetry/smoke", "/customers"])
def test_one_request_becomes_the_golden_trace(onboard, trace_with, route):
    spans = trace_with(onboard(route)["trace_id"], 4)
    assert view.tree(spans) == GOLDEN_TRACE.replace(f"{'POST /telemetry/smoke':<26}", f"{f'POST {route}':<26}")


def test_the_response_names_the_message_that_the_function_onboards(stack, onboard, log_lines):
    response = onboard("/customers")
    assert list(response) == ["customer_id", "message_id", "request_id", "status", "trace_id"]
    ids = [f"{key}={response[key]}" for key in ("customer_id", "request_id", "message_id")]
    poll_until(lambda: log_lines(stack.function, "onboarded", *ids), "the onboarded line")
    assert len(log_lines(stack.function, "onboarded", *ids)) == 1


def test_both_programs_log_the_trace(stack, onboard, log_lines):
    response = onboard()
    producer = f"PRODUCER trace_id={response['trace_id']} message_id={response['message_id']}"
    assert log_lines(stack.api, producer)
    poll_until(
        lambda: log_lines(stack.function, f"extracted traceparent 00-{response['trace_id']}-"), "the extracted line"
    )
    poll_until(lambda: log_lines(stack.function, "Flush complete"), "the flush line")
    assert not log_lines(stack.function, "Flush incomplete")


EXPECTED_ATTRIBUTES = {
    "POST /telemetry/smoke": {"http.method": "POST", "http.request.method": "POST", "http.route": "/telemetry/smoke"}
    | {"http.status_code": 202, "http.response.status_code": 202},
    "sqs.send": {"messaging.system": "aws.sqs", "messaging.destination.name": "cal-onboarding-queue"}
    | {"messaging.operation.name": "send", "messaging.operation.type": "send"},
    "SQS.SendMessage": {"rpc.service": "SQS", "rpc.method": "SendMessage"},
    "sqs.process": {"messaging.system": "aws.sqs", "messaging.destination.name": "cal-onboarding-queue"}
    | {"messaging.operation.name": "process", "messaging.operation.type": "process"},
}
EXPECTED_RESOURCE = {
    "onboarding-api": {"service.namespace": "onboarding", "service.version": "local"}
    | {"deployment.environment.name": "demo", "cx.application.name": "onboarding", "cx.subsystem.name": "api"}
    | {"cloud.provider": "aws", "cloud.platform": "aws_ecs", "cloud.region": "us-east-1"},
    "onboarding-lambda": {"service.namespace": "onboarding", "service.version": "local"}
    | {"deployment.environment.name": "demo", "cx.application.name": "onboarding", "cx.subsystem.name": "lambda"}
    | {"cloud.provider": "aws", "cloud.platform": "aws_lambda", "cloud.region": "us-east-1"}
    | {"faas.name": "cal-onboarding-lambda", "faas.version": "$LATEST", "faas.max_memory": 512 * 1024 * 1024},
}


def test_spans_and_resources_carry_the_standard_attributes(onboard, trace_with):
    response = onboard()
    spans = trace_with(response["trace_id"], 4)
    for span in spans:
        assert span.attributes.items() >= EXPECTED_ATTRIBUTES[span.name].items()
        assert span.resource.items() >= EXPECTED_RESOURCE[span.service].items()
    message_ids = {span.name: span.attributes.get("messaging.message.id") for span in spans}
    assert message_ids["sqs.send"] == message_ids["sqs.process"] == response["message_id"]


def test_no_span_carries_the_customer(onboard, trace_with):
    response = onboard(email="someone@example.com")
    for span in trace_with(response["trace_id"], 4):
        assert response["customer_id"] not in str(span)
        assert "someone@example.com" not in str(span)


def test_a_batch_keeps_every_record_under_its_own_producer(stack, onboard, trace_with):
    with stack.mapping.disabled():
        responses = [onboard() for _ in range(5)]
    processed = [next(s for s in trace_with(r["trace_id"], 4) if s.name == "sqs.process") for r in responses]
    assert len({span.attributes["faas.invocation_id"] for span in processed}) == 1, "not delivered as one batch"

    batch = the_batch_of(stack, processed[0])
    sends = [next(s for s in trace_with(r["trace_id"], 4) if s.name == "sqs.send") for r in responses]
    assert [span.parent_span_id for span in processed] == [send.span_id for send in sends]
    assert all(span.links == [(batch.trace_id, batch.span_id)] for span in processed)
    assert sorted(batch.links) == sorted((send.trace_id, send.span_id) for send in sends)
    assert (batch.kind, batch.parent_span_id, batch.status) == ("SERVER", "", "UNSET")
    assert batch.trace_id not in {span.trace_id for span in processed}
    assert batch.attributes.items() >= {"messaging.batch.message_count": 5, "faas.trigger": "pubsub"}.items()


def test_a_record_without_a_context_starts_a_trace_of_its_own(stack, onboard):
    body = json.dumps({"customer_id": "TEST-bare", "request_id": str(uuid.uuid4()), "source": "smoke"})
    with stack.mapping.disabled():
        onboard()
        message_id = stack.sqs.send_message(QueueUrl=stack.queue_url, MessageBody=body)["MessageId"]
    span = the_process_span(stack, message_id)
    assert span.parent_span_id == ""
    batch = the_batch_of(stack, span)
    assert span.trace_id != batch.trace_id
    assert len(batch.links) == batch.attributes["messaging.batch.message_count"] - 1


def test_a_poisoned_record_fails_alone_and_is_dead_lettered_with_its_context(stack, onboard, log_lines):
    trace_id, span_id = uuid.uuid4().hex, uuid.uuid4().hex[:16]
    context = {"traceparent": {"DataType": "String", "StringValue": f"00-{trace_id}-{span_id}-01"}}
    with stack.mapping.disabled():
        poison = stack.sqs.send_message(QueueUrl=stack.queue_url, MessageBody="not JSON", MessageAttributes=context)
        good = [onboard()["message_id"] for _ in range(4)]

    dead_letter = poll_until(lambda: receive(stack, stack.dead_letter_queue_url), "the dead letter", timeout=60)
    assert dead_letter["MessageId"] == poison["MessageId"]
    assert dead_letter["MessageAttributes"]["traceparent"]["StringValue"] == f"00-{trace_id}-{span_id}-01"

    attempts = poll_until(lambda: at_least(5, view.trace_of(stack.ingress.spans(), trace_id)), "5 attempts")
    for span in attempts:
        assert (span.name, span.kind, span.status, span.parent_span_id) == ("sqs.process", "CONSUMER", "ERROR", span_id)
    assert all(event == "exception" for span in attempts for event, _ in span.events)
    assert all(span.events[0][1]["exception.type"] == "json.decoder.JSONDecodeError" for span in attempts)

    first_batch = the_batch_of(stack, min(attempts, key=lambda span: span.start))
    assert (first_batch.status, first_batch.status_message) == ("ERROR", "1 of 5 records failed")
    for message_id in good:
        assert len(log_lines(stack.function, "onboarded", f"message_id={message_id}")) == 1


def the_process_span(stack, message_id):
    """Return the sqs.process span of a message."""

    def find():
        spans = stack.ingress.spans()
        return [s for s in spans if s.name == "sqs.process" and s.attributes["messaging.message.id"] == message_id]

    return poll_until(find, f"the sqs.process span of message {message_id}")[0]


def the_batch_of(stack, process_span):
    """Return the sqs.batch span of the invocation that a sqs.process span belongs to."""

    def find():
        invocation = process_span.attributes["faas.invocation_id"]
        spans = stack.ingress.spans()
        return [s for s in spans if s.name == "sqs.batch" and s.attributes["faas.invocation_id"] == invocation]

    return poll_until(find, "the sqs.batch span")[0]


def receive(stack, queue_url):
    """Return one message of a queue with its attributes, or None."""
    response = stack.sqs.receive_message(QueueUrl=queue_url, MessageAttributeNames=["All"])
    return next(iter(response.get("Messages", [])), None)


def at_least(count, spans):
    """Return spans when there are enough of them."""
    return spans if len(spans) >= count else None
