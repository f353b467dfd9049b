"""The stub that judges what the API sends has SQS's documented limits."""

import pytest


def text(value="x"):
    return {"DataType": "String", "StringValue": value}


@pytest.mark.parametrize(
    ("body", "attributes", "rejected"),
    [
        pytest.param("x", {}, None, id="no attributes"),
        pytest.param("x", {"traceparent": text()}, None, id="one attribute"),
        pytest.param("x", {f"a{n}": text() for n in range(10)}, None, id="ten attributes"),
        pytest.param("x", {f"a{n}": text() for n in range(11)}, "11 attributes", id="eleven attributes"),
        pytest.param("", {}, "body", id="empty body"),
        pytest.param("a\tb\nc\rd \ud7ff\ue000\ufffd\U00010000\U0010ffff", {}, None, id="the edges of the characters"),
        pytest.param("\x00", {}, "body", id="NUL in the body"),
        pytest.param("\x0b", {}, "body", id="control character in the body"),
        pytest.param("\ud800", {}, "body", id="surrogate in the body"),
        pytest.param("\ufffe", {}, "body", id="U+FFFE in the body"),
        pytest.param("x", {"a": text("")}, "value", id="empty value"),
        pytest.param("x", {"a": text("\x1b")}, "value", id="control character in a value"),
        pytest.param("x", {"a": {"DataType": "Binary", "BinaryValue": "eA=="}}, "data type", id="not a string"),
        pytest.param("x", {"": text()}, "name", id="empty name"),
        pytest.param("x", {"a" * 257: text()}, "name", id="name of 257 characters"),
        pytest.param("x", {"a b": text()}, "name", id="space in the name"),
        pytest.param("x", {"AWS.x": text()}, "name", id="reserved name AWS."),
        pytest.param("x", {"amazon.x": text()}, "name", id="reserved name Amazon."),
        pytest.param("x" * 1_048_576, {}, None, id="1 MiB"),
        pytest.param("x" * 1_048_577, {}, "bytes", id="over 1 MiB"),
        pytest.param("é" * 524_289, {}, "bytes", id="over 1 MiB in UTF-8"),
        pytest.param("x" * 1_048_568, {"a": text()}, None, id="1 MiB with the attribute"),
        pytest.param("x" * 1_048_569, {"a": text()}, "bytes", id="over 1 MiB with the attribute"),
    ],
)
def test_a_message_outside_the_documented_limits_is_rejected(sqs, body, attributes, rejected):
    rejection = sqs.rejection(body, attributes)
    assert rejected in rejection if rejected else rejection is None
