"""The API's contract: what a request may be, the response, what is sent to SQS, which spans and lines it leaves."""

import json
import logging
import re
from decimal import Decimal
from types import SimpleNamespace

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

LIMIT = 64 * 1024
JSON = "application/json"
WHAT_TO_POST = "This is the customer onboarding API: POST JSON with a customer_id to /telemetry/smoke or /customers."
LOSSES = ("opentelemetry.exporter", "opentelemetry.sdk")  # the loggers that say what did not arrive
TOO_PRECISE = "A number is out of the range or precision of a 64-bit float; send it as a string."


def customer(fields=""):
    return ('{"customer_id":"TEST-001"' + fields + "}").encode()


def padded(size):
    return customer() + b" " * (size - len(customer()))


@pytest.mark.parametrize("path", ["/telemetry/smoke", "/customers"])
@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(400, b"", id="empty body"),
        pytest.param(400, b'{"customer_id":', id="malformed JSON"),
        pytest.param(400, customer() + b"x", id="more than JSON"),
        pytest.param(400, customer(",}"), id="trailing comma"),
        pytest.param(400, b"\xef\xbb\xbf" + customer(), id="UTF-8 byte order mark"),
        pytest.param(400, customer().decode().encode("utf-16"), id="UTF-16"),
        pytest.param(400, customer(',"name":"\xff"').decode().encode("latin-1"), id="invalid UTF-8"),
        pytest.param(400, customer(',"x":"a\nb"'), id="raw control character in a string"),
        pytest.param(400, b"[" * 60_000, id="nested by the thousand"),
        pytest.param(400, b'{"x":' * 10_000, id="objects nested by the thousand"),
        pytest.param(400, customer(',"x":NaN'), id="NaN"),
        pytest.param(400, customer(',"x":-Infinity'), id="-Infinity"),
        pytest.param(400, customer(',"x":1e400'), id="1e400"),
        pytest.param(400, customer(',"x":-1e400'), id="-1e400"),
        pytest.param(400, customer(',"x":1e-400'), id="1e-400"),
        pytest.param(400, customer(',"x":1e99999999999999999999'), id="exponent beyond any limit"),
        pytest.param(400, customer(',"x":1e-99999999999999999999'), id="negative exponent beyond any limit"),
        pytest.param(400, customer(',"x":9007199254740993.0'), id="a float beside the integer"),
        pytest.param(400, customer(',"amount":8123456789012345.7'), id="amount of 17 digits"),
        pytest.param(400, customer(',"x":[{"y":0.12345678901234567}]'), id="17 digits deep inside"),
        pytest.param(400, customer(',"x":' + "9" * 5_000), id="integer of 5000 digits"),
        pytest.param(400, b'["TEST-001"]', id="list"),
        pytest.param(400, b'"TEST-001"', id="string"),
        pytest.param(400, b"1", id="number"),
        pytest.param(400, b"null", id="null"),
        pytest.param(400, b"{}", id="no customer_id"),
        pytest.param(400, b'{"customer_id":null}', id="customer_id null"),
        pytest.param(400, b'{"customer_id":1}', id="customer_id a number"),
        pytest.param(400, b'{"customer_id":["TEST-001"]}', id="customer_id a list"),
        pytest.param(400, b'{"customer_id":""}', id="customer_id empty"),
        pytest.param(400, b'{"customer_id":"' + b"a" * 65 + b'"}', id="customer_id of 65 characters"),
        pytest.param(400, b'{"customer_id":"TEST 001"}', id="customer_id with a space"),
        pytest.param(400, b'{"customer_id":"TEST-001\\n"}', id="customer_id with a line end"),
        pytest.param(400, b'{"customer_id":"TEST\\u0000"}', id="customer_id with NUL"),
        pytest.param(400, b'{"customer_id":"\\ud800"}', id="customer_id a lone surrogate"),
        pytest.param(400, '{"customer_id":"é"}'.encode(), id="customer_id not ASCII"),
        pytest.param(400, '{"customer_id":"\u0663"}'.encode(), id="customer_id a digit of another script"),
        pytest.param(400, b'{"Customer_ID":"TEST-001"}', id="customer_id misspelt"),
        pytest.param(413, padded(LIMIT + 1), id="a byte over 64 KiB"),
        pytest.param(413, padded(LIMIT + 2), id="two bytes over 64 KiB"),
        pytest.param(413, padded(4 * LIMIT), id="far over 64 KiB"),
    ],
)
def test_a_wrong_body_gets_its_status_and_a_message_and_sends_nothing(api, path, status, body):
    response = api.post(body, path)
    assert (response.status_code, list(response.json)) == (status, ["error"])
    assert response.json["error"].endswith(".")
    assert response.content_type == JSON
    assert api.sqs.calls == 0


@pytest.mark.parametrize(
    ("status", "method", "path", "headers"),
    [
        pytest.param(404, "POST", "/", {}, id="root"),
        pytest.param(404, "POST", "/nowhere", {}, id="unknown route"),
        pytest.param(404, "POST", "/customers/", {}, id="trailing slash"),
        pytest.param(404, "POST", "/telemetry//smoke", {}, id="two slashes"),
        pytest.param(404, "POST", "/Customers", {}, id="wrong case"),
        pytest.param(404, "POST", "/customers%3f", {}, id="quoted question mark"),
        pytest.param(404, "GET", "/%ff%00", {}, id="path that is no text"),
        pytest.param(405, "GET", "/customers", {}, id="GET for POST"),
        pytest.param(405, "PUT", "/telemetry/smoke", {}, id="PUT for POST"),
        pytest.param(405, "POST", "/health", {}, id="POST for GET"),
        pytest.param(405, "BREW", "/customers", {}, id="unknown method"),
        pytest.param(400, "POST", "/customers", {"Connection": "Upgrade", "Upgrade": "websocket"}, id="websocket"),
    ],
)
def test_a_request_that_goes_nowhere_gets_its_status_and_a_message(api, status, method, path, headers):
    response = api.client.open(path, method=method, data=customer(), content_type=JSON, headers=headers)
    assert (response.status_code, list(response.json)) == (status, ["error"])
    assert response.json["error"].endswith(".")
    assert response.content_type == JSON
    assert api.sqs.calls == 0


@pytest.mark.parametrize(
    ("status", "message", "request_"),
    [
        (400, "The body is not valid JSON.", {"data": b"{"}),
        (400, "The body must be a JSON object.", {"data": b"[]"}),
        (400, "customer_id must be a string of 1 to 64 characters out of A-Z, a-z, 0-9, _ and -.", {"data": b"{}"}),
        (400, TOO_PRECISE, {"data": customer(',"x":1e400')}),
        (404, WHAT_TO_POST, {"path": "/nowhere"}),
        (404, WHAT_TO_POST, {"path": "/", "method": "GET"}),
        (405, "The method is not allowed for the requested URL.", {"method": "PUT"}),
        (413, "The body may have at most 64 KiB.", {"data": padded(LIMIT + 1)}),
        (415, "Content-Type must be application/json.", {"content_type": "text/plain"}),
    ],
)
def test_an_error_says_what_to_do(api, status, message, request_):
    defaults = {"path": "/customers", "method": "POST", "data": customer(), "content_type": JSON}
    response = api.client.open(**{**defaults, **request_})
    assert (response.status_code, response.json) == (status, {"error": message})


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/customers", {"OPTIONS", "POST"}),
        ("/telemetry/smoke", {"OPTIONS", "POST"}),
        ("/health", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_options_of_a_route_names_its_methods(api, path, allowed):
    response = api.client.options(path)
    assert (response.status_code, response.data) == (200, b"")
    assert set(response.headers["Allow"].split(", ")) == allowed


def test_there_are_no_options_of_an_unknown_path(api):
    assert api.client.options("/nowhere").status_code == 404


def test_a_wrong_method_is_told_the_right_one(api):
    assert "POST" in api.client.get("/customers").headers["Allow"]


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "application/problem+json", ";"],
)
def test_another_content_type_gets_415(api, content_type):
    response = api.post(content_type=content_type)
    assert (response.status_code, list(response.json)) == (415, ["error"])


@pytest.mark.parametrize("content_type", [JSON, "Application/JSON", "application/json; charset=utf-8"])
def test_json_is_accepted_in_every_spelling_of_its_content_type(api, content_type):
    assert api.post(content_type=content_type).status_code == 202


@pytest.mark.parametrize(("path", "source"), [("/telemetry/smoke", "smoke"), ("/customers", "customers")])
def test_an_accepted_request_gets_the_response_and_is_sent_as_the_contract_says(api, path, source):
    response = api.post({"customer_id": "TEST-001", "plan": {"name": "gold"}, "seats": [1, 2.5, None, True]}, path)
    assert response.status_code == 202
    assert set(response.json) == {"status", "customer_id", "request_id", "message_id", "trace_id"}
    assert (response.json["status"], response.json["customer_id"]) == ("queued", "TEST-001")
    (message,) = api.sqs.messages
    assert set(message) == {"QueueUrl", "MessageBody", "MessageAttributes"}
    assert json.loads(message["MessageBody"]) == {
        "customer_id": "TEST-001",
        "plan": {"name": "gold"},
        "seats": [1, 2.5, None, True],
        "request_id": response.json["request_id"],
        "source": source,
    }


@pytest.mark.parametrize("simulate", ["failure", "failure_once", "slow"])
def test_a_smoke_request_may_ask_the_function_for_a_failure(api, simulate):
    assert api.post({"customer_id": "TEST-001", "simulate": simulate}, "/telemetry/smoke").status_code == 202
    assert json.loads(api.sqs.messages[0]["MessageBody"])["simulate"] == simulate


@pytest.mark.parametrize(
    ("path", "simulate"),
    [
        pytest.param("/telemetry/smoke", "fail", id="unknown"),
        pytest.param("/telemetry/smoke", "", id="empty"),
        pytest.param("/telemetry/smoke", None, id="null"),
        pytest.param("/telemetry/smoke", ["failure"], id="a list"),
        pytest.param("/customers", "failure", id="on the business route"),
    ],
)
def test_any_other_simulation_is_rejected_by_name(api, path, simulate):
    response = api.post({"customer_id": "TEST-001", "simulate": simulate}, path)
    assert (response.status_code, api.sqs.messages) == (400, [])
    message = "simulate is for /telemetry/smoke only, and one of failure, failure_once, slow."
    assert response.get_json() == {"error": message}


def test_request_id_and_source_of_the_client_are_overwritten(api):
    response = api.post({"customer_id": "TEST-001", "request_id": "theirs", "source": "theirs"})
    sent = json.loads(api.sqs.messages[0]["MessageBody"])
    assert (sent["request_id"], sent["source"]) == (response.json["request_id"], "customers")
    assert response.json["request_id"] != "theirs"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(customer(',"x":"\\u0000\\u0001\\u001f\\u007f\\ufffe\\uffff"'), id="control characters"),
        pytest.param(customer(',"x":"\\ud800","\\udc00":1'), id="lone surrogates"),
        pytest.param(customer(',"x":"\x7f\ufffe\U0010ffff"'), id="raw characters SQS rejects"),
        pytest.param(customer(',"x":' + "9" * 4_300), id="integer of 4300 digits"),
        pytest.param(customer(',"x":1e308,"y":-0.0,"z":5e-324,"u":0e9,"v":1.50,"w":1E+2'), id="extreme floats"),
        pytest.param(customer(',"x":9007199254740993,"y":12345678901234.56'), id="precise numbers"),
        pytest.param(customer(',"":{"":[]}'), id="empty names"),
        pytest.param(b" \n\t" + customer() + b"\r\n", id="white space around"),
        pytest.param(b'{"customer_id":"' + b"a" * 64 + b'"}', id="customer_id of 64 characters"),
        pytest.param(b'{"customer_id":"_"}', id="customer_id of one character"),
        pytest.param(padded(LIMIT), id="exactly 64 KiB"),
        pytest.param(customer(',"x":"' + "\x7f" * (LIMIT - 40) + '"'), id="64 KiB of DEL"),
        pytest.param(customer(',"x":"' + "é" * (LIMIT // 2 - 20) + '"'), id="64 KiB of escaped letters"),
        pytest.param(customer(',"x":[' + ",".join(["9e15"] * (LIMIT // 5 - 10)) + "]"), id="64 KiB of longer numbers"),
    ],
)
def test_every_field_that_is_json_travels_within_the_limits_of_sqs(api, body):
    assert api.post(body).status_code == 202
    sent = json.loads(api.sqs.messages[0]["MessageBody"], parse_float=Decimal)
    ours = {"request_id": sent.pop("request_id"), "source": sent.pop("source")}
    assert sent == json.loads(body, parse_float=Decimal)
    assert ours["source"] == "customers"


def test_the_last_of_two_equal_keys_counts(api):
    response = api.post(b'{"customer_id":"first","customer_id":"last"}')
    assert (response.status_code, response.json["customer_id"]) == (202, "last")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"":', "}")], ids=["lists", "objects"])
def test_brackets_nested_about_as_deep_as_the_interpreter_allows_are_never_our_error(api, opening, closing):
    def status(depth):
        return api.post(customer(f',"x":{opening * depth}1{closing * depth}')).status_code

    accepted, rejected = 1, 13_000
    while rejected - accepted > 1:
        middle = (accepted + rejected) // 2
        accepted, rejected = (middle, rejected) if status(middle) == 202 else (accepted, middle)
    assert {status(depth) for depth in range(accepted - 50, accepted + 50)} <= {202, 400}


def fails(exception):
    def fail(request):
        raise exception

    return fail


def page(status, content):
    """Return what a proxy between the API and SQS may respond with."""
    return lambda request: AWSResponse("", status, {}, SimpleNamespace(stream=lambda: [content]))


def responds(status, content):
    """Return a response of SQS."""
    raw = SimpleNamespace(stream=lambda: [json.dumps(content).encode()])
    return AWSResponse("", status, {"content-type": "application/x-amz-json-1.0"}, raw)


def sqs_gives(status, content):
    return lambda request: responds(status, content)


@pytest.mark.parametrize(
    ("cause", "fail"),
    [
        pytest.param("ConnectTimeoutError", fails(ConnectTimeoutError(endpoint_url="sqs")), id="connect timeout"),
        pytest.param("ReadTimeoutError", fails(ReadTimeoutError(endpoint_url="sqs")), id="read timeout"),
        pytest.param("EndpointConnectionError", fails(EndpointConnectionError(endpoint_url="sqs")), id="refused"),
        pytest.param("NoCredentialsError", fails(NoCredentialsError()), id="no credentials"),
        pytest.param("RuntimeError", fails(RuntimeError("Credentials were refreshed, but …")), id="stale credentials"),
        pytest.param("MemoryError", fails(MemoryError()), id="out of memory"),
        pytest.param(
            "QueueDoesNotExist", sqs_gives(400, {"__type": "com.amazonaws.sqs#QueueDoesNotExist"}), id="no such queue"
        ),
        pytest.param("AccessDenied", sqs_gives(403, {"__type": "AccessDenied", "message": "no"}), id="access denied"),
        pytest.param("ThrottlingException", sqs_gives(400, {"__type": "ThrottlingException"}), id="throttled"),
        pytest.param("500", sqs_gives(500, {}), id="internal error"),
        pytest.param("503", sqs_gives(503, {}), id="unavailable"),
        pytest.param("LookupError", sqs_gives(200, {}), id="no MessageId"),
        *(
            pytest.param("LookupError", sqs_gives(200, {"MessageId": value}), id=f"MessageId {value!r:.20}")
            for value in (None, "", 1, True, ["id"], {"id": 1}, "two\nlines", "a" * 65)
        ),
        *(
            pytest.param(None, sqs_gives(status, content), id=f"{status} {content!r}")
            for status in (200, 400, 500)
            for content in (None, [], ["MessageId"], "MessageId", 1, {"__type": ["x"]}, {"__type": {"x": 1}})
        ),
        *(
            pytest.param(None, page(status, content), id=f"{status} {content!r:.20}")
            for status in (200, 302, 407, 502)
            for content in (b"", b"<html>Zugriff verweigert f\xfcr TEST-001</html>", b"<xml/>", b"\x00\xff" * 5_000)
        ),
        pytest.param(
            "InvalidParameterValue",
            lambda request: responds(400, {"__type": "InvalidParameterValue", "message": request.body.decode()}),
            id="SQS quotes the message",
        ),
    ],
)
def test_whatever_goes_wrong_while_sending_is_a_503_and_one_line_and_an_error_on_the_producer(api, caplog, cause, fail):
    api.sqs.fail = fail
    response = api.post()
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert response.json == {"error": "The queue did not accept the request; try again."}
    producer = api.spans.one("sqs.send")
    assert producer.status.status_code is StatusCode.ERROR
    assert [event.name for event in producer.events] == ["exception"]
    assert "messaging.message.id" not in producer.attributes
    assert api.spans.one("POST /customers").status.status_code is StatusCode.ERROR
    (line,) = [record for record in caplog.records if record.name == "onboarding-api"]
    trace_id = trace.format_trace_id(producer.context.trace_id)
    logged = rf"SQS did not accept request_id=[0-9a-f-]{{36}} trace_id={trace_id}: '(\w+)'"
    assert (line.levelname, line.exc_info) == ("ERROR", None)
    found = re.fullmatch(logged, line.getMessage())
    assert found
    assert cause in (None, found[1])


def test_an_sqs_that_is_slow_is_tried_twice_and_costs_seconds_not_minutes(api):
    def never_responds(request):
        raise ReadTimeoutError(endpoint_url=request.url)

    api.sqs.fail = never_responds
    assert api.post().status_code == 503
    config = api.module.SQS_CONFIG
    assert api.sqs.calls == 2
    assert api.sqs.calls * (config.connect_timeout + config.read_timeout) <= 6


def test_an_error_that_passes_costs_a_retry_and_not_the_request(api):
    responses = iter([api.sqs.response(500, {}), None])
    api.sqs.fail = lambda request: next(responses)
    assert api.post().status_code == 202
    assert (api.sqs.calls, len(api.sqs.messages)) == (2, 1)


def test_the_trace_context_is_injected_inside_the_producer_span(api):
    response = api.post()
    server, producer, client = (api.spans.one(name) for name in ("POST /customers", "sqs.send", "SQS.SendMessage"))
    traceparent = api.sqs.messages[0]["MessageAttributes"]["traceparent"]["StringValue"]
    version, trace_id, span_id, flags = traceparent.split("-")
    assert (version, int(trace_id, 16), int(span_id, 16)) == ("00", producer.context.trace_id, producer.context.span_id)
    assert int(flags, 16) & 1
    assert response.json["trace_id"] == trace_id
    assert (server.kind, producer.kind, client.kind) == (SpanKind.SERVER, SpanKind.PRODUCER, SpanKind.CLIENT)
    assert producer.parent.span_id == server.context.span_id
    assert client.parent.span_id == producer.context.span_id


def test_the_producer_span_says_what_was_sent_where(api):
    response = api.post()
    assert dict(api.spans.one("sqs.send").attributes) == {
        "messaging.system": "aws.sqs",
        "messaging.destination.name": "cal-onboarding-queue",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.message.id": response.json["message_id"],
    }


def test_only_a_context_that_is_not_empty_is_sent_and_in_lower_case(api):
    api.post()
    assert list(api.sqs.messages[0]["MessageAttributes"]) == ["traceparent"]


def test_tracestate_and_baggage_are_sent_when_there_are_any(api):
    api.post(
        headers={
            "Traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
            "Tracestate": "vendor=value",
            "Baggage": "plan=gold",
        }
    )
    values = {name: item["StringValue"] for name, item in api.sqs.messages[0]["MessageAttributes"].items()}
    assert values.pop("traceparent").startswith("00-0123456789abcdef0123456789abcdef-")
    assert values == {"tracestate": "vendor=value", "baggage": "plan=gold"}


def test_an_accepted_request_leaves_one_line_with_its_trace_and_message(api, caplog):
    caplog.set_level(logging.INFO)
    response = api.post({"customer_id": "TEST-001", "x": "\n\x1b[31m"}).json
    (line,) = [record.getMessage() for record in caplog.records if record.name == "onboarding-api"]
    assert line == f"PRODUCER trace_id={response['trace_id']} message_id={response['message_id']}"
    assert re.fullmatch("[0-9a-f]{32}", response["trace_id"])


def test_no_library_logs_what_a_caller_can_drive(api):
    api.post()  # some loggers are made with the first request
    libraries = {"boto3", "botocore", "flask", "opentelemetry", "requests", "urllib3", "werkzeug"}
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in libraries]
    known = [*names, "gunicorn.http.wsgi"]  # gunicorn.error is for tests/e2e/test_api_connections.py
    assert len(known) > 50
    loud = {name for name in known if logging.getLogger(name).isEnabledFor(logging.ERROR)}
    assert {name for name in loud if not name.startswith(LOSSES)} == set()


@pytest.mark.parametrize(
    "name", ["opentelemetry.exporter.otlp.proto.grpc.exporter", "opentelemetry.sdk._shared_internal"]
)
def test_spans_that_are_lost_are_logged(api, name):
    assert name.startswith(LOSSES)
    assert logging.getLogger(name).isEnabledFor(logging.WARNING)


def test_nothing_of_the_customer_is_on_a_span(api):
    api.post({"customer_id": "TEST-secret", "email": "someone@secret.example"})
    assert "secret" not in "".join(span.to_json() for span in api.spans.get_finished_spans())


def test_health_responds_and_is_not_traced(api):
    response = api.client.get("/health")
    assert (response.status_code, response.json) == (200, {"status": "ok"})
    assert not api.spans.get_finished_spans()


@pytest.mark.parametrize("name", ["QUEUE_URL", "AWS_REGION"])
def test_a_missing_variable_stops_the_start_with_its_name(api, monkeypatch, name):
    monkeypatch.delenv(name)
    with pytest.raises(KeyError, match=name):
        api.module.create_app()
