"""The Lambda's handler: which records fail, which spans and log lines each leaves, and when it flushes."""

import contextlib
import json
import logging
import subprocess
import sys

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.propagate import inject
from opentelemetry.sdk.trace.sampling import Decision, StaticSampler
from opentelemetry.trace import SpanKind, StatusCode

import records
import shipped

GOOD = {"customer_id": "TEST-001", "request_id": "request-1", "source": "smoke"}


def text(**values):
    """Return message attributes with these values, as Lambda spells them."""
    return {name: {"stringValue": value, "dataType": "String"} for name, value in values.items()}


def record(number, body=GOOD, **fields):
    """Return one record of an SQS event, sent by producer number; a field that is None is left out."""
    context = text(traceparent=records.traceparent(number, number))
    return records.record(**{"messageId": f"message-{number}", "body": body, "messageAttributes": context} | fields)


def failures(*numbers):
    return {"batchItemFailures": [{"itemIdentifier": f"message-{number}"} for number in numbers]}


def by_message(function):
    return {span.attributes["messaging.message.id"]: span for span in function.spans.named("sqs.process")}


def links(span):
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


BAD = [
    pytest.param({"body": ""}, id="empty body"),
    pytest.param({"body": None}, id="no body"),
    pytest.param({"body": "{"}, id="malformed JSON"),
    pytest.param({"body": "[" * 100_000}, id="nested by the thousand"),
    pytest.param({"body": "9" * 5_000}, id="integer of 5000 digits"),
    pytest.param({"body": "null"}, id="null"),
    pytest.param({"body": "1"}, id="number"),
    pytest.param({"body": '"TEST-001"'}, id="string"),
    pytest.param({"body": [GOOD]}, id="list"),
    pytest.param({"body": {}}, id="no fields"),
    pytest.param({"body": {"customer_id": "TEST-001"}}, id="no request_id"),
    pytest.param({"body": {"request_id": "request-1"}}, id="no customer_id"),
    pytest.param({"body": GOOD | {"customer_id": None}}, id="customer_id null"),
    pytest.param({"body": GOOD | {"customer_id": 1}}, id="customer_id a number"),
    pytest.param({"body": GOOD | {"customer_id": ["TEST-001"]}}, id="customer_id a list"),
    pytest.param({"body": GOOD | {"customer_id": ""}}, id="customer_id empty"),
    pytest.param({"body": GOOD | {"customer_id": "a" * 65}}, id="customer_id of 65 characters"),
    pytest.param({"body": GOOD | {"customer_id": "TEST\nforged"}}, id="customer_id of two lines"),
    pytest.param({"body": GOOD | {"customer_id": "TEST\n"}}, id="customer_id with a line end"),
    pytest.param({"body": GOOD | {"request_id": "\x1b[31m"}}, id="request_id with control characters"),
    pytest.param({"body": GOOD | {"request_id": "\ud800"}}, id="request_id a lone surrogate"),
    pytest.param({"body": GOOD | {"request_id": 1}}, id="request_id a number"),
]


@pytest.mark.parametrize("fields", BAD)
def test_a_bad_record_fails_alone_with_its_exception_on_its_span(function, caplog, fields):
    caplog.set_level(logging.INFO)
    result = function.invoke({"Records": [record(1), record(2, **fields), record(3)]})
    assert result == failures(2)
    spans = by_message(function)
    statuses = {message_id: span.status.status_code for message_id, span in spans.items()}
    unset = StatusCode.UNSET
    assert statuses == {"message-1": unset, "message-2": StatusCode.ERROR, "message-3": unset}
    (event,) = spans["message-2"].events
    assert event.name == "exception"
    assert event.attributes["exception.type"]
    assert [line for line in caplog.messages if line.startswith(f"failed message_id=message-2 trace_id={2:032x}: ")]
    assert all(line.isprintable() for line in caplog.messages)


@pytest.mark.parametrize(
    "fields", [{"eventSourceARN": None}, {"eventSourceARN": 1}, {"attributes": None}, {"messageAttributes": None}]
)
def test_a_record_that_lacks_what_sqs_always_sends_is_processed(function, fields):
    assert function.invoke({"Records": [record(1), record(2, **fields), record(3)]}) == failures()
    assert len(function.spans.named("sqs.process")) == 3


def test_a_record_that_fails_before_its_span_is_logged_with_the_trace_id_of_its_producer(function, caplog):
    received = {"ApproximateReceiveCount": "not a number"}
    assert function.invoke({"Records": [record(1), record(2, attributes=received), record(3)]}) == failures(2)
    assert caplog.record_tuples[-3:-2] == [lines(2, "ValueError")[1]]
    assert len(function.spans.named("sqs.process")) == 2


def test_every_kind_of_exception_is_the_records_own(function, monkeypatch, caplog):
    errors = iter([RecursionError(), MemoryError(), UnicodeError("\ud800"), OSError(5, "\x1b"), AssertionError()])

    def process(message):
        raise next(errors)

    monkeypatch.setattr(function.module, "process", process)
    assert function.invoke({"Records": [record(n) for n in range(1, 6)]}) == failures(1, 2, 3, 4, 5)
    assert {span.status.status_code for span in function.spans.named("sqs.process")} == {StatusCode.ERROR}
    assert all(line.isprintable() for line in caplog.messages)


def test_good_records_are_processed_and_none_is_reported(function):
    assert function.invoke({"Records": [record(1), record(2)]}) == failures()
    assert [span.status.status_code for span in function.spans.get_finished_spans()] == [StatusCode.UNSET] * 3


def test_each_record_is_a_child_of_its_own_producer_and_linked_to_the_batch_and_back(function):
    function.invoke({"Records": [record(1), record(2), record(3)]})
    batch = function.spans.one("sqs.batch")
    for number, span in enumerate(function.spans.named("sqs.process"), start=1):
        assert (span.context.trace_id, span.parent.span_id, span.kind) == (number, number, SpanKind.CONSUMER)
        assert links(span) == [(batch.context.trace_id, batch.context.span_id)]
    assert links(batch) == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("attributes", [None, {}, {"traceparent": {"stringValue": "nonsense"}}, {"traceparent": 1}, []])
def test_a_record_without_a_context_starts_a_trace_of_its_own(function, attributes):
    first, middle, last = record(1), record(2, messageAttributes=attributes), record(3)
    assert function.invoke({"Records": [first, middle, last]}) == failures()
    batch, orphan = function.spans.one("sqs.batch"), by_message(function)["message-2"]
    assert orphan.parent is None
    assert orphan.context.trace_id not in {1, 3, batch.context.trace_id}
    assert links(orphan) == [(batch.context.trace_id, batch.context.span_id)]
    assert links(batch) == [(1, 1), (3, 3)]


def test_a_span_around_the_invocation_is_nobodys_parent(function):
    with function.module.tracer.start_as_current_span("around") as around:
        function.invoke({"Records": [record(1, messageAttributes=None)]})
    traces = {function.spans.one(name).context.trace_id for name in ("sqs.batch", "sqs.process")}
    assert len(traces) == 2
    assert around.get_span_context().trace_id not in traces


def test_the_batch_is_a_root_of_kind_server_that_describes_the_invocation(function):
    function.invoke({"Records": [record(1), record(2)]})
    batch = function.spans.one("sqs.batch")
    assert (batch.parent, batch.kind) == (None, SpanKind.SERVER)
    attributes = dict(batch.attributes)
    assert isinstance(attributes.pop("faas.coldstart"), bool)
    assert attributes == {
        "faas.invocation_id": "invocation-1",
        "faas.trigger": "pubsub",
        "messaging.batch.message_count": 2,
    }


def test_the_process_span_says_what_was_received_from_where(function):
    function.invoke({"Records": [record(1)]})
    expected = {
        "messaging.system": "aws.sqs",
        "messaging.destination.name": "cal-onboarding-queue",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.message.id": "message-1",
        "aws.sqs.receive_count": 1,
        "faas.invocation_id": "invocation-1",
    }
    assert expected.items() <= dict(function.spans.one("sqs.process").attributes).items()


def test_a_batch_with_failures_is_an_error_that_counts_them(function):
    batch = [record(1), record(2, "{"), record(3), record(4, None), record(5)]
    assert function.invoke({"Records": batch}) == failures(2, 4)
    status = function.spans.one("sqs.batch").status
    assert (status.status_code, status.description) == (StatusCode.ERROR, "2 of 5 records failed")


def test_a_link_for_every_producer_of_the_largest_batch_is_kept(function):
    function.invoke({"Records": [record(n) for n in range(1, 1_001)]})
    assert len(function.spans.one("sqs.batch").links) == 1_000


def test_no_records_is_no_failure(function):
    assert function.invoke({"Records": []}) == failures()
    assert function.spans.one("sqs.batch").attributes["messaging.batch.message_count"] == 0


@pytest.mark.parametrize(
    ("event", "ended"),
    [
        pytest.param({"Records": [record(1), record(2)]}, 3, id="good records"),
        pytest.param({"Records": [record(1), record(2, "{")]}, 3, id="a bad record"),
        pytest.param({"Records": []}, 1, id="no records"),
    ],
)
def test_it_flushes_once_after_all_spans_have_ended(function, event, ended):
    function.invoke(event)
    ((names, inside_a_span, bounded_by),) = function.flushes
    assert (len(names), names[-1], inside_a_span) == (ended, "sqs.batch", False)
    assert bounded_by is function.context


@pytest.mark.parametrize(
    "event",
    [
        pytest.param({}, id="no Records"),
        pytest.param(None, id="null"),
        pytest.param([], id="list"),
        pytest.param("event", id="string"),
        pytest.param({"Records": None}, id="Records null"),
        pytest.param({"Records": 1}, id="Records a number"),
        pytest.param({"Records": [None]}, id="record null"),
        pytest.param({"Records": ["record"]}, id="record a string"),
        pytest.param({"Records": [record(1), record(2, "{", messageId=None)]}, id="a failure without messageId"),
    ],
)
def test_an_event_that_is_none_of_sqs_fails_as_a_whole_and_is_flushed_all_the_same(function, event):
    with pytest.raises((KeyError, TypeError, AttributeError)):
        function.invoke(event)
    ((names, inside_a_span, _),) = function.flushes
    assert (names[-1], inside_a_span) == ("sqs.batch", False)
    batch = function.spans.one("sqs.batch")
    assert (batch.status.status_code, [e.name for e in batch.events]) == (StatusCode.ERROR, ["exception"])


def test_it_flushes_when_the_runtime_stops_the_record(function, monkeypatch):
    def process(message):
        raise SystemExit(1)

    monkeypatch.setattr(function.module, "process", process)
    with pytest.raises(SystemExit):
        function.invoke({"Records": [record(1)]})
    assert function.flushes == [(["sqs.process", "sqs.batch"], False, function.context)]


def lines(number, failed_with=None):
    """Return the lines about a record of producer number, onboarded unless it failed."""
    name, trace_id = "onboarding-lambda", f"trace_id={number:032x}"
    ids = f"customer_id=TEST-001 request_id=request-1 message_id=message-{number}"
    return [
        (name, logging.INFO, f"extracted traceparent {records.traceparent(number, number)}"),
        (name, logging.ERROR, f"failed message_id=message-{number} {trace_id}: {failed_with}")
        if failed_with
        else (name, logging.INFO, f"onboarded {ids} {trace_id}"),
    ]


def test_a_record_leaves_two_lines_with_its_trace_id(function, caplog):
    caplog.set_level(logging.DEBUG)
    function.invoke({"Records": [record(7), record(8, "{"), record(9, {})]})
    assert caplog.record_tuples == lines(7) + lines(8, "JSONDecodeError") + lines(9, "ValueError")


def test_a_record_without_a_context_leaves_one_line_with_the_trace_id_of_its_span(function, caplog):
    caplog.set_level(logging.DEBUG)
    function.invoke({"Records": [record(7, messageAttributes=None), record(8, "{", messageAttributes=None)]})
    traces = {name: f"{span.context.trace_id:032x}" for name, span in by_message(function).items()}
    ids = "customer_id=TEST-001 request_id=request-1 message_id=message-7"
    assert caplog.messages == [
        f"onboarded {ids} trace_id={traces['message-7']}",
        f"failed message_id=message-8 trace_id={traces['message-8']}: JSONDecodeError",
    ]


# What the propagators, the SDK and the exporter warn of, with the customer's words or without a trace id.
CONTEXTS = [
    pytest.param({"baggage": "user name=ann@example.com"}, id="baggage with a space in a name"),
    pytest.param({"baggage": "ann@example.com"}, id="baggage without a value"),
    pytest.param({"baggage": "ann@example.com=\u00e9"}, id="baggage that is not ASCII"),
    pytest.param({"baggage": "user=ann@example.com,x=" + "y" * 9_000}, id="baggage that is too long"),
    pytest.param({"baggage": "ann@example.com=" + "y" * 5_000}, id="baggage with a member that is too long"),
    pytest.param({"baggage": ",".join(f"ann{n}=example.com" for n in range(200))}, id="baggage of 200 members"),
    pytest.param({"baggage": "user=ann@example.com;ann@example.com;=;;"}, id="baggage with odd properties"),
    pytest.param({"baggage": "\nuser=ann@example.com"}, id="baggage of two lines"),
    pytest.param({"tracestate": "User=ann@example.com"}, id="tracestate in upper case"),
    pytest.param({"tracestate": "ann@example.com"}, id="tracestate without a value"),
    pytest.param({"tracestate": "a=ann@example.com,a=ann@example.com"}, id="tracestate with a key twice"),
    pytest.param({"tracestate": ",".join(f"ann{n}=example.com" for n in range(40))}, id="tracestate of 40 members"),
    pytest.param({"tracestate": "a=" + "ann@example.com" * 600}, id="tracestate that is too long"),
    pytest.param({"tracestate": "a=ann@example.com\x1b[31m"}, id="tracestate with control characters"),
]


@pytest.mark.parametrize("context", CONTEXTS)
def test_nothing_of_a_context_is_logged_but_the_line_of_the_contract(function, caplog, monkeypatch, context):
    def process(message):
        inject({})  # as an instrumented client does
        onboard(message)

    onboard = function.module.process
    monkeypatch.setattr(function.module, "process", process)
    caplog.set_level(logging.DEBUG)
    attributes = text(traceparent=records.traceparent(7, 7), **context)
    assert function.invoke({"Records": [record(7, messageAttributes=attributes)]}) == failures()
    encode_spans(function.spans.get_finished_spans())
    assert caplog.record_tuples == lines(7)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("ann@example.com"),
        KeyError("ann@example.com"),
        RuntimeError("ann@example.com " * 1_000),
        OSError(2, "ann@example.com", "ann@example.com"),
        UnicodeEncodeError("utf-8", "ann@example.com\ud800", 15, 16, "surrogates not allowed"),
        UnicodeError("ann@example.com\ud800"),
        json.JSONDecodeError("ann@example.com", "ann@example.com", 0),
        type("Forged", (Exception,), {})("\nINFO onboarded customer_id=forged"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_text_of_an_exception_is_on_its_span_and_not_in_the_log(function, caplog, monkeypatch, error):
    def process(message):
        trace.get_current_span().set_attribute("customer", object())
        raise error

    monkeypatch.setattr(function.module, "process", process)
    caplog.set_level(logging.DEBUG)
    assert function.invoke({"Records": [record(7)]}) == failures(7)
    with contextlib.suppress(UnicodeEncodeError):  # that span is lost, which is the exporter's concern
        encode_spans(function.spans.get_finished_spans())
    assert caplog.record_tuples == lines(7, type(error).__name__)
    (event,) = function.spans.one("sqs.process").events
    assert event.attributes["exception.message"] == str(error)[:4096]


PLANS = [
    record(1, messageAttributes=text(traceparent=records.traceparent(1, 1), baggage="plan=gold")),
    record(2),
    record(3, messageAttributes=text(baggage="plan=iron")),
    record(4, "{", messageAttributes=text(traceparent=records.traceparent(4, 4), baggage="plan=zinc,since=2020")),
    record(5, messageAttributes=None),
]


@pytest.fixture
def carried(function, monkeypatch):
    """What process() saw as baggage, and injects, record by record; it fails for a body that is no JSON object."""
    carried = []

    def process(message):
        carrier = {}
        inject(carrier)
        carried.append((dict(baggage.get_all()), carrier.get("baggage")))
        attach(baggage.set_baggage("left", "behind"))  # and is never detached
        onboard(message)

    onboard = function.module.process
    monkeypatch.setattr(function.module, "process", process)
    return carried


def test_a_records_baggage_is_there_while_it_is_processed_and_travels_on_and_never_reaches_the_next(function, carried):
    assert function.invoke({"Records": PLANS}) == failures(4)
    assert carried == [
        ({"plan": "gold"}, "plan=gold"),
        ({}, None),
        ({"plan": "iron"}, "plan=iron"),
        ({"plan": "zinc", "since": "2020"}, "plan=zinc,since=2020"),
        ({}, None),
    ]


def test_baggage_around_the_invocation_reaches_no_record_and_is_there_again_afterwards(function, carried):
    token = attach(baggage.set_baggage("around", "all"))
    function.invoke({"Records": PLANS[:2]})
    assert carried == [({"plan": "gold"}, "plan=gold"), ({}, None)]
    assert baggage.get_all() == {"around": "all"}
    detach(token)


@pytest.mark.parametrize(
    "batch",
    [PLANS[:1], PLANS[3:4], [record(1), PLANS[0]], [PLANS[0], None]],
    ids=["last", "failed", "two", "broken"],
)
def test_no_baggage_is_left_after_an_invocation(function, carried, batch):
    with contextlib.suppress(AttributeError):
        function.invoke({"Records": batch})
    assert baggage.get_all() == {}
    assert not trace.get_current_span().get_span_context().is_valid


def test_no_baggage_is_left_where_the_runtime_stops_the_record_or_the_time_is_short(function, monkeypatch):
    def process(message):
        raise SystemExit(1)

    monkeypatch.setattr(function.module, "process", process)
    with pytest.raises(SystemExit):
        function.invoke({"Records": PLANS[:1]})
    assert baggage.get_all() == {}
    function.context.get_remaining_time_in_millis = lambda: 0
    assert function.invoke({"Records": PLANS[:1]}) == failures(1)
    assert baggage.get_all() == {}


def test_between_two_records_the_batch_is_current_again(function, monkeypatch):
    current = []

    def extract(record):
        current.append((trace.get_current_span().get_span_context().trace_id, dict(baggage.get_all())))
        return extract_parent(record)

    extract_parent = function.module._extract_parent
    monkeypatch.setattr(function.module, "_extract_parent", extract)
    function.invoke({"Records": [*PLANS, record(6)]})
    assert current == [(function.spans.one("sqs.batch").context.trace_id, {})] * 6


def test_what_the_business_traces_is_a_child_of_the_records_span(function, monkeypatch):
    def process(message):
        with function.module.tracer.start_as_current_span("business"):
            pass

    monkeypatch.setattr(function.module, "process", process)
    function.invoke({"Records": [record(1)]})
    assert function.spans.one("business").parent.span_id == function.spans.one("sqs.process").context.span_id


def test_a_record_has_its_attributes_when_its_span_starts(function, monkeypatch):
    begun = []

    class Sampler(StaticSampler):
        def should_sample(self, parent_context, trace_id, name, kind=None, attributes=None, links=None, **_):
            begun.append((name, set(attributes), len(links)))
            return super().should_sample(parent_context, trace_id, name, kind, attributes, links)

    monkeypatch.setattr(function.module.tracer, "sampler", Sampler(Decision.RECORD_AND_SAMPLE))
    function.invoke({"Records": [record(1)]})
    assert begun == [
        ("sqs.batch", {"faas.invocation_id", "faas.trigger", "faas.coldstart"}, 0),
        ("sqs.process", set(function.spans.one("sqs.process").attributes), 1),
    ]


def test_other_fields_reach_neither_log_nor_span(function, caplog):
    caplog.set_level(logging.INFO)
    function.invoke({"Records": [record(1, GOOD | {"email": "secret\n\x1b"}), record(2, '{"email":"secret')]})
    assert "secret" not in caplog.text + "".join(span.to_json() for span in function.spans.get_finished_spans())


def test_the_function_never_imports_boto3(loaded_function):
    program = "import app, sys; print(*sorted(m for m in sys.modules if m.split('.')[0] in ('boto3', 'botocore')))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=shipped.ROOT / "onboarding-lambda",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []


def test_a_redelivery_says_so_on_its_span(function):
    function.invoke({"Records": [record(1, attributes={"ApproximateReceiveCount": "3"})]})
    assert function.spans.one("sqs.process").attributes["aws.sqs.receive_count"] == 3


def test_when_time_runs_short_the_rest_of_the_batch_is_reported_and_visible(function):
    remaining = iter([15_000, 4_000, 3_999, 100, 0])
    function.context.get_remaining_time_in_millis = lambda: next(remaining)
    result = function.invoke({"Records": [record(n) for n in range(1, 6)]})
    assert result == failures(3, 4, 5)
    statuses = [span.status for span in function.spans.named("sqs.process")]
    assert [status.status_code for status in statuses] == [StatusCode.UNSET] * 2 + [StatusCode.ERROR] * 3
    assert statuses[-1].description == "TimeoutError: too little time is left in this invocation"
    assert len(function.flushes) == 1


@pytest.mark.parametrize(
    ("simulate", "receive_count", "result"),
    [
        ("failure", 1, failures(1)),
        ("failure", 4, failures(1)),
        ("failure_once", 1, failures(1)),
        ("failure_once", 2, failures()),
        ("slow", 1, failures()),
        ("anything else", 1, failures()),
        (["failure"], 1, failures()),
    ],
)
def test_a_smoke_request_can_ask_for_a_failure_or_a_slow_record(function, monkeypatch, simulate, receive_count, result):
    slept = []
    monkeypatch.setattr(function.module.time, "sleep", slept.append)
    message = record(1, GOOD | {"simulate": simulate}, attributes={"ApproximateReceiveCount": str(receive_count)})
    assert function.invoke({"Records": [message]}) == result
    assert slept == ([1] if simulate == "slow" else [])
    span = function.spans.one("sqs.process")
    if result == failures(1):
        assert span.status.description == f"RuntimeError: simulate={simulate}"
