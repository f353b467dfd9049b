"""The Lambda's two readers of the producer's context are total: any other shape means that there is no parent."""

import logging

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import Context

TRACE_ID, SPAN_ID = "0123456789abcdef0123456789abcdef", "0123456789abcdef"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


def text(value):
    return {"stringValue": value, "dataType": "String"}


def parent_of(function, attributes):
    """Return the producer's span context, or None."""
    found = trace.get_current_span(
        function.module._extract_parent({"messageAttributes": attributes})
    ).get_span_context()
    return found if found.is_valid else None


@pytest.mark.parametrize(
    ("attributes", "carrier"),
    [
        pytest.param({"traceparent": text("a")}, {"traceparent": "a"}, id="as Lambda spells it"),
        pytest.param({"traceparent": {"StringValue": "a"}}, {"traceparent": "a"}, id="as the SQS API spells it"),
        pytest.param({"TraceParent": text("a")}, {"traceparent": "a"}, id="upper-case name"),
        pytest.param({"a": text("1"), "b": text("2")}, {"a": "1", "b": "2"}, id="several"),
        pytest.param({"a": text("1"), "b": 2}, {"a": "1"}, id="one of two malformed"),
        pytest.param({"a": {"stringValue": "", "StringValue": "x"}}, {"a": "x"}, id="empty, then the other spelling"),
        pytest.param({"a": {"stringValue": None, "StringValue": "x"}}, {"a": "x"}, id="null, then the other spelling"),
        pytest.param({}, {}, id="no attributes"),
        pytest.param(None, {}, id="null"),
        pytest.param([], {}, id="list"),
        pytest.param([text("a")], {}, id="list of attributes"),
        pytest.param("traceparent", {}, id="string"),
        pytest.param(1, {}, id="number"),
        pytest.param(True, {}, id="true"),
        pytest.param({"a": None}, {}, id="attribute null"),
        pytest.param({"a": "x"}, {}, id="attribute a string"),
        pytest.param({"a": ["x"]}, {}, id="attribute a list"),
        pytest.param({"a": 1}, {}, id="attribute a number"),
        pytest.param({"a": {}}, {}, id="attribute empty"),
        pytest.param({"a": {"dataType": "String"}}, {}, id="no value"),
        pytest.param({"a": {"stringvalue": "x"}}, {}, id="value misspelt"),
        pytest.param({"a": {"stringValue": None}}, {}, id="value null"),
        pytest.param({"a": {"stringValue": 1}}, {}, id="value a number"),
        pytest.param({"a": {"stringValue": True}}, {}, id="value true"),
        pytest.param({"a": {"stringValue": ["x"]}}, {}, id="value a list"),
        pytest.param({"a": {"stringValue": {"x": "y"}}}, {}, id="value an object"),
        pytest.param({"a": {"binaryValue": "eA==", "dataType": "Binary"}}, {}, id="binary"),
    ],
)
def test_only_attributes_with_a_string_value_are_flattened(function, attributes, carrier):
    assert function.module._flatten_attrs(attributes) == carrier


@pytest.mark.parametrize("spelling", ["stringValue", "StringValue"])
@pytest.mark.parametrize("name", ["traceparent", "Traceparent", "TRACEPARENT"])
@pytest.mark.parametrize(
    "value", [TRACEPARENT, TRACEPARENT[:-2] + "03", f"cc{TRACEPARENT[2:]}", f"cc{TRACEPARENT[2:]}-x"]
)
def test_a_valid_traceparent_is_the_parent(function, spelling, name, value):
    found = parent_of(function, {name: {spelling: value}})
    assert (f"{found.trace_id:032x}", f"{found.span_id:016x}", found.is_remote) == (TRACE_ID, SPAN_ID, True)


@pytest.mark.parametrize("before", ["", " ", "\t", " \t "])
@pytest.mark.parametrize("behind", ["", " ", "\t", "\t \t"])
def test_the_white_space_that_w3c_allows_around_a_value_loses_nothing(function, before, behind):
    attributes = {
        "traceparent": text(before + TRACEPARENT + behind),
        "tracestate": text(f"{before}a=b{behind},{before}c=d{behind}"),
        "baggage": text(f"{before}plan{behind}={before}gold{behind},{before}since=2020{behind}"),
    }
    context = function.module._extract_parent({"messageAttributes": attributes})
    found = trace.get_current_span(context).get_span_context()
    assert (f"{found.trace_id:032x}", found.trace_state.to_header()) == (TRACE_ID, "a=b,c=d")
    assert baggage.get_all(context) == {"plan": "gold", "since": "2020"}


@pytest.mark.parametrize(
    "white_space", ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x85", "\xa0", "\u2003", "\u2028", "\ufeff"]
)
def test_other_white_space_is_none(function, white_space):
    for value in (white_space + TRACEPARENT, TRACEPARENT + white_space):
        assert parent_of(function, {"traceparent": text(value)}) is None
    attributes = {"traceparent": text(TRACEPARENT), "baggage": text(f"plan=gold{white_space}")}
    assert baggage.get_all(function.module._extract_parent({"messageAttributes": attributes})) == {}


@pytest.mark.parametrize("record", [{}, {"messageAttributes": None}, {"messageAttributes": {"traceparent": 1}}])
def test_a_record_without_context_has_no_parent(function, record):
    assert function.module._extract_parent(record) == Context()


@pytest.mark.parametrize(
    "traceparent",
    [
        pytest.param("", id="empty"),
        pytest.param(" ", id="white space"),
        pytest.param("00", id="version alone"),
        pytest.param(f"00-{TRACE_ID}-{SPAN_ID}", id="no flags"),
        pytest.param(f"{TRACE_ID}-{SPAN_ID}-01", id="no version"),
        pytest.param(f"00-{'0' * 32}-{SPAN_ID}-01", id="trace id all zero"),
        pytest.param(f"00-{TRACE_ID}-{'0' * 16}-01", id="span id all zero"),
        pytest.param(f"ff-{TRACE_ID}-{SPAN_ID}-01", id="version ff"),
        pytest.param(f"FF-{TRACE_ID}-{SPAN_ID}-01", id="version FF"),
        pytest.param(f"0-{TRACE_ID}-{SPAN_ID}-01", id="version of one digit"),
        pytest.param(f"000-{TRACE_ID}-{SPAN_ID}-01", id="version of three digits"),
        pytest.param(f"0x-{TRACE_ID}-{SPAN_ID}-01", id="version not hex"),
        pytest.param(f"00-{TRACE_ID[:-1]}-{SPAN_ID}-01", id="trace id too short"),
        pytest.param(f"00-{TRACE_ID}0-{SPAN_ID}-01", id="trace id too long"),
        pytest.param(f"00-{TRACE_ID.upper()}-{SPAN_ID}-01", id="trace id in upper case"),
        pytest.param(f"00-g{TRACE_ID[1:]}-{SPAN_ID}-01", id="trace id not hex"),
        pytest.param(f"00-\u0660{TRACE_ID[1:]}-{SPAN_ID}-01", id="trace id with a digit of another script"),
        pytest.param(f"00-{TRACE_ID}-{SPAN_ID[:-1]}-01", id="span id too short"),
        pytest.param(f"00-{TRACE_ID}-{SPAN_ID}0-01", id="span id too long"),
        pytest.param(f"00-{TRACE_ID}-{SPAN_ID.upper()}-01", id="span id in upper case"),
        pytest.param(f"00-{TRACE_ID}-{SPAN_ID}-1", id="flags of one digit"),
        pytest.param(f"00-{TRACE_ID}-{SPAN_ID}-001", id="flags of three digits"),
        pytest.param(f"00-{TRACE_ID}-{SPAN_ID}-0x", id="flags not hex"),
        pytest.param(f"00-{TRACE_ID}-{SPAN_ID}-01-x", id="version 00 with a fifth field"),
        pytest.param(f"00-{TRACE_ID}-{SPAN_ID}-01-", id="version 00 with a dash at its end"),
        pytest.param(f"cc-{TRACE_ID}-{SPAN_ID}-01.x", id="later version with a dot"),
        pytest.param(f"00_{TRACE_ID}_{SPAN_ID}_01", id="underscores"),
        pytest.param(f"{TRACEPARENT},{TRACEPARENT}", id="two values"),
        pytest.param(f"{TRACEPARENT}\n", id="line end behind"),
        pytest.param(f"\n{TRACEPARENT}", id="line end before"),
        pytest.param(f"{TRACEPARENT}\nINFO onboarded customer_id=forged", id="second line"),
        pytest.param(f"{TRACEPARENT}\x00", id="NUL behind"),
        pytest.param(f'"{TRACEPARENT}"', id="quoted"),
        pytest.param("\ud800", id="lone surrogate"),
        pytest.param("0" * 1_000_000, id="a million zeros"),
        pytest.param(None, id="null"),
        pytest.param(0, id="number"),
        pytest.param([TRACEPARENT], id="list"),
        pytest.param({"stringValue": TRACEPARENT}, id="object"),
    ],
)
def test_a_malformed_traceparent_is_no_parent(function, traceparent):
    assert parent_of(function, {"traceparent": text(traceparent)}) is None


@pytest.mark.parametrize("name", ["tracestate", "baggage"])
@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="empty"),
        pytest.param(",,,", id="commas"),
        pytest.param("=", id="equals sign"),
        pytest.param("key", id="no value"),
        pytest.param("key=" + "v" * 100_000, id="100,000 characters"),
        pytest.param(",".join(f"k{n}=v" for n in range(10_000)), id="10,000 members"),
        pytest.param("k=v,k=v", id="the same key twice"),
        pytest.param("a=b\nINFO onboarded customer_id=forged", id="second line"),
        pytest.param("a=\x1b[31m\x00\x7f", id="control characters"),
        pytest.param("a=%00%0a%1b%ff%ed%a0%80", id="quoted control characters"),
        pytest.param("a=\ud800", id="lone surrogate"),
        pytest.param("a=\u2028\x85é", id="not ASCII"),
        pytest.param(1, id="number"),
        pytest.param(None, id="null"),
        pytest.param(["a=b"], id="list"),
    ],
)
def test_hostile_tracestate_or_baggage_leaves_the_parent_and_the_log_alone(function, caplog, name, value):
    caplog.set_level(logging.DEBUG)
    found = parent_of(function, {"traceparent": text(TRACEPARENT), name: text(value)})
    assert f"{found.trace_id:032x}" == TRACE_ID
    assert all(line.isprintable() for line in caplog.messages)


def test_tracestate_and_baggage_arrive_with_the_parent(function):
    attributes = {"traceparent": text(TRACEPARENT), "tracestate": text("a=b"), "baggage": text("plan=gold")}
    context = function.module._extract_parent({"messageAttributes": attributes})
    assert trace.get_current_span(context).get_span_context().trace_state.to_header() == "a=b"
    assert baggage.get_all(context) == {"plan": "gold"}


def test_the_line_names_the_parent_that_was_found(function, caplog):
    caplog.set_level(logging.INFO)
    parent_of(function, {"traceparent": text(TRACEPARENT)})
    parent_of(function, {"traceparent": text("nonsense")})
    assert caplog.messages == [f"extracted traceparent {TRACEPARENT}"]
