"""What the API really sends, spelled as Lambda's event source spells it, is what the function's readers accept."""

import json
from types import SimpleNamespace

import pytest

from event_source_mapping import EventSourceMapping

ARN = "arn:aws:sqs:us-east-1:000000000000:cal-onboarding-queue"
CONTEXT = {
    "traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
    "tracestate": "vendor=value",
    "baggage": "plan=gold",
}


def event(messages):
    """Return the messages SQS has taken as the event Lambda would send."""
    queue = SimpleNamespace(get_queue_attributes=lambda **_: {"Attributes": {"QueueArn": ARN}})
    mapping = EventSourceMapping(queue, "", "", 10)
    return {
        "Records": [
            mapping._record(
                {
                    "MessageId": f"message-{number}",
                    "ReceiptHandle": "handle",
                    "Body": message["MessageBody"],
                    "MessageAttributes": message["MessageAttributes"],
                    "Attributes": {"ApproximateReceiveCount": "1"},
                    "MD5OfBody": "",
                }
            )
            for number, message in enumerate(messages)
        ]
    }


def test_the_event_is_spelled_as_lambda_spells_it(api):
    """https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html shows one."""
    api.post()
    (record,) = event(api.sqs.messages)["Records"]
    assert set(record) == {
        *("messageId", "receiptHandle", "body", "attributes", "messageAttributes", "md5OfBody"),
        *("eventSource", "eventSourceARN", "awsRegion"),
    }
    assert set(record["messageAttributes"]["traceparent"]) == {
        *("stringValue", "stringListValues", "binaryListValues", "dataType"),
    }
    assert (record["eventSource"], record["awsRegion"]) == ("aws:sqs", "us-east-1")


@pytest.mark.parametrize("path", ["/telemetry/smoke", "/customers"])
@pytest.mark.parametrize("headers", [{}, CONTEXT], ids=["no context", "trusted context"])
def test_the_function_accepts_what_the_api_sends_and_is_its_child(api, function, path, headers):
    assert api.post({"customer_id": "TEST-001"}, path, headers=headers).status_code == 202
    assert function.invoke(event(api.sqs.messages)) == {"batchItemFailures": []}
    producer, consumer = api.spans.one("sqs.send"), function.spans.one("sqs.process")
    assert consumer.context.trace_id == producer.context.trace_id
    assert consumer.parent.span_id == producer.context.span_id
    assert consumer.parent.trace_state == producer.context.trace_state


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"customer_id": "a" * 64}, id="longest customer_id"),
        pytest.param({"customer_id": "_-A0"}, id="every kind of character"),
        pytest.param({"customer_id": "a", "x": "\x00\x1b\ud800\ufffe\U0010ffff"}, id="hostile text"),
        pytest.param({"customer_id": "a", "body": {}, "Records": [], "messageId": "theirs"}, id="names of the event"),
        pytest.param({"customer_id": "a", "request_id": None, "source": 1}, id="our fields from the client"),
        pytest.param({"customer_id": "a", "x": 10**4_299}, id="longest integer"),
        pytest.param(b'{"customer_id":"a","x":' + b"[" * 300 + b"]" * 300 + b"}", id="nested"),
    ],
)
def test_whatever_the_api_accepts_the_function_onboards(api, function, body):
    response = api.post(body)
    assert response.status_code == 202
    assert function.invoke(event(api.sqs.messages)) == {"batchItemFailures": []}


def test_several_messages_in_one_event_keep_their_own_producers(api, function):
    for path in ("/customers", "/telemetry/smoke", "/customers"):
        api.post(path=path)
    function.invoke(event(api.sqs.messages))
    producers = [(span.context.trace_id, span.context.span_id) for span in api.spans.named("sqs.send")]
    consumers = [(span.context.trace_id, span.parent.span_id) for span in function.spans.named("sqs.process")]
    assert consumers == producers
    assert len(set(producers)) == 3
    assert [
        (link.context.trace_id, link.context.span_id) for link in function.spans.one("sqs.batch").links
    ] == producers


def test_the_message_has_the_contracts_fields_and_attributes(api):
    api.post({"customer_id": "TEST-001", "plan": "gold"}, headers=CONTEXT)
    (message,) = api.sqs.messages
    assert list(json.loads(message["MessageBody"])) == ["customer_id", "plan", "request_id", "source"]
    attributes = message["MessageAttributes"]
    assert list(attributes) == list(CONTEXT)
    assert len(attributes) <= api.sqs.MAX_ATTRIBUTES
    assert all(set(item) == {"DataType", "StringValue"} for item in attributes.values())


def test_the_destination_has_the_same_name_on_both_sides(api, function):
    api.post()
    function.invoke(event(api.sqs.messages))
    names = [
        span.attributes["messaging.destination.name"]
        for span in (api.spans.one("sqs.send"), function.spans.one("sqs.process"))
    ]
    assert names == ["cal-onboarding-queue"] * 2
