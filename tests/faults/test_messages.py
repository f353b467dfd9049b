"""What is in the messages: poison, duplicates, hostile values and headers, and batches as large as they come."""

import json
import uuid

import pytest

from records import record

slow = pytest.mark.slow
EMULATOR_BYTES = 6 * 1024 * 1024
POISON = [
    "",
    "not JSON",
    "[]",
    "null",
    "{}",
    '{"customer_id": 1, "request_id": "r"}',
    '{"customer_id": "TEST-001"}',
    '{"customer_id": "TEST-001", "request_id": null}',
    '{"customer_id": "TEST-001\\n", "request_id": "r"}',
    '{"customer_id": "' + "a" * 65 + '", "request_id": "r"}',
    "[" * 5_000,
]
HOSTILE_BODIES = [
    (202, '{"customer_id":"a","x":"' + "\\u0000\\u001b[31m\\ud800\\uffff" + '"}'),
    (202, '{"customer_id":"a","x":"' + "é\U0010ffff" * 1_000 + '"}'),
    (202, '{"customer_id":"a","x":"' + "y" * (65_536 - 26) + '"}'),
    (202, '{"customer_id":"a","request_id":"theirs","source":"theirs","messageId":"theirs"}'),
    (202, '{"customer_id":"a","x":' + "[" * 500 + "]" * 500 + "}"),
    (413, '{"customer_id":"a","x":"' + "y" * 65_536 + '"}'),
    (400, '{"customer_id":"a\\n"}'),
    (400, '{"customer_id":"' + "a" * 65 + '"}'),
    (400, '{"customer_id":"a","x":NaN}'),
    (400, "[" * 60_000),
    (400, b'{"customer_id":"\xff"}'),
]
TRACE, SPAN = "0123456789abcdef0123456789abcdef", "0123456789abcdef"
HOSTILE_HEADERS = [
    {"traceparent": f"00-{TRACE}-{SPAN}-00"},
    {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=value", "baggage": "user=someone"},
    {"traceparent": f"00-{TRACE[::-1]}-{SPAN}-01", "tracestate": "ot=th:ffffffffffffff"},
    {"traceparent": f"00-{'0' * 32}-{SPAN}-01"},
    {"traceparent": f"ff-{TRACE}-{SPAN}-01"},
    {"traceparent": "00-" + "x" * 4_000},
    {"traceparent": ""},
    {"tracestate": ",".join(f"k{number}=v" for number in range(200))},
    {"baggage": "a=" + "%00" * 2_000},
    {"baggage": ",".join(f"k{number}=v" for number in range(300))},
]


@slow
def test_poison_records(drill):
    with drill.stack.mapping.disabled():
        for body in POISON:
            drill.send(body or " ")
        drill.load(10)
    row = drill.account()
    assert (row.processed, row.dead_lettered, row.lost) == (10, len(POISON), 0)


def test_duplicates_and_records_out_of_order(drill):
    drill.evidence.repeats = True
    records = [record() for _ in range(10)]
    with drill.stack.mapping.disabled():
        for batch in (records[:5], records[5:], records[::-1][:5], records[3:8], [records[0]] * 3):
            assert json.loads(drill.invoke(batch)) == {"batchItemFailures": []}
    row = drill.account()
    assert (row.accepted, row.processed, row.lost) == (10, 10, 0)


def test_hostile_values(drill):
    for status, body in HOSTILE_BODIES:
        assert drill.post(body=body if isinstance(body, bytes) else body.encode()).status == status
    row = drill.account()
    accepted = sum(status == 202 for status, _ in HOSTILE_BODIES)
    assert (row.accepted, row.processed, row.ambiguous, row.lost) == (accepted, accepted, 0, 0)


@slow
@pytest.mark.parametrize("trust", ["false", "true"])
def test_hostile_trace_headers(drill, trust):
    usable = HOSTILE_HEADERS if trust == "false" else HOSTILE_HEADERS[1:]  # the first asks not to be recorded
    with drill.environment(drill.stack.api, TRUST_INCOMING_TRACE_CONTEXT=trust):
        for headers in usable:
            assert drill.post(headers=headers).status == 202
        row = drill.account()
    assert (row.accepted, row.processed, row.lost) == (len(usable), len(usable), 0)


@slow
def test_hostile_message_attributes(drill):
    with drill.stack.mapping.disabled():
        for headers in HOSTILE_HEADERS[1:]:
            body = {"customer_id": "TEST-001", "request_id": str(uuid.uuid4())}
            drill.send(json.dumps(body), body["request_id"], **{name: text or " " for name, text in headers.items()})
    row = drill.account()
    assert (row.accepted, row.processed, row.lost) == (len(HOSTILE_HEADERS) - 1, len(HOSTILE_HEADERS) - 1, 0)


@slow
def test_largest_batch_the_emulator_takes(drill):
    size = len(json.dumps(record())) + 2  # and the comma
    records = [record() for _ in range((EMULATOR_BYTES - 100) // size)]
    with drill.stack.mapping.disabled():
        assert json.loads(drill.invoke(records)) == {"batchItemFailures": []}
    row = drill.account()
    assert (row.accepted, row.lost) == (row.processed, 0)
    assert row.processed >= len(records) > 5_000


@slow
def test_batch_of_ten_thousand(drill):
    drill.invoke_in_process([record() for _ in range(10_000)])
    row = drill.account()
    assert (row.accepted, row.processed, row.lost) == (10_000, 10_000, 0)
