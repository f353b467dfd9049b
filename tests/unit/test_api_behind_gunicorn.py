"""The API behind gunicorn's own request parser and gunicorn.conf.py: what a hostile client can do to it."""

import inspect
from types import SimpleNamespace

import pytest
from gunicorn import util
from gunicorn.http.body import Body
from gunicorn.http.errors import InvalidChunkSize, NoMoreData, ParseException
from gunicorn.http.parser import Parser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers import gthread

CUSTOMER = b'{"customer_id":"TEST-001"}'
TRACEPARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
CHUNKED = "Transfer-Encoding: chunked"


def post(target="/customers", *headers, host="api", body=CUSTOMER, method="POST"):
    """Return the bytes of a request; headers take the place of Content-Length when they say chunked."""
    length = [] if CHUNKED in headers else [f"Content-Length: {len(body)}"]
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", *length, *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunks(*parts, end=b"0\r\n\r\n"):
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + end


def names(api):
    return [span.name for span in api.spans.get_finished_spans()]


HOSTILE_HOSTS = [
    *(
        "a/health",
        "a/health?b",
        "a/health?",
        "a/health#",
        "a/favicon.ico?",
        "/health?",
        "user@a/health",
        "user:x@a/health?",
        "a\\/health?",
    ),
    *(
        "a:80/health?",
        "[::1]/health?",
        "a%2fhealth%3f",
        "a, b/health?",
        "\xe9/health?",
        "a_b",
        "health",
        "health.example",
        "",
    ),
]


@pytest.mark.parametrize("host", HOSTILE_HOSTS)
def test_no_host_header_switches_tracing_off(api, host):
    status, _ = api.http(post(host=host))
    assert status == 202
    assert names(api) == ["SQS.SendMessage", "sqs.send", "POST /customers"]


@pytest.mark.parametrize(
    "target",
    [
        *("/customers?/health", "/customers?x=http://a/health", "/customers#/health", "http://a/customers"),
        *("//customers", "/customers?health"),
    ],
)
def test_no_request_target_that_reaches_a_route_switches_tracing_off(api, target):
    status, _ = api.http(post(target))
    assert names(api)[-1:] == (["POST /customers"] if status == 202 else ["POST"])


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "api", "[::1]:8000", "a_b", ""])
@pytest.mark.parametrize("target", ["/health", "/health?x=1", "http://api/health"])
def test_health_is_never_traced(api, host, target):
    status, _ = api.http(post(target, host=host, method="GET", body=b""))
    assert (status, names(api)) == (200, [])


@pytest.mark.parametrize("target", ["/favicon.ico", "/favicon.ico?x=1", "http://api/favicon.ico"])
def test_the_icon_that_every_browser_asks_for_is_never_traced(api, target):
    status, _ = api.http(post(target, method="GET", body=b""))
    assert (status, names(api)) == (404, [])


@pytest.mark.parametrize(
    "header",
    [
        *("SCRIPT_NAME: /health", "SCRIPT_NAME: /customers", "PATH_INFO: /health", "Path_Info: /health"),
        *("X-Forwarded-Proto: https", "X-Forwarded-Host: a/health?", "X-Forwarded-Prefix: /health", "Trace_Parent: x"),
    ],
)
@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "192.0.2.1"])
def test_no_forwarding_header_changes_what_is_served_or_traced(api, header, peer):
    status, _ = api.http(post("/customers", header), peer)
    assert (status, names(api)) == (202, ["SQS.SendMessage", "sqs.send", "POST /customers"])


@pytest.mark.parametrize(
    "target", [*(f"/x{n}" for n in range(3)), "/customers/1", "/telemetry//smoke", "/%ff", "/%00", "//["]
)
def test_an_unrouted_path_is_no_span_name(api, target):
    assert api.http(post(target))[0] == 404
    assert names(api) == ["POST"]


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("GET", "GET"),
        ("PUT", "PUT"),
        ("DELETE", "DELETE"),
        ("PATCH", "PATCH"),
        ("HEAD", "HEAD"),
        ("TRACE", "HTTP"),
        ("BREW", "HTTP"),
    ],
)
@pytest.mark.parametrize(("target", "status"), [("/customers", 405), ("/x", 404), ("/telemetry/smoke", 405)])
def test_a_wrong_or_made_up_method_is_a_bounded_span_name(api, method, name, target, status):
    assert api.http(post(target, method=method))[0] == status
    assert names(api) == [name]


@pytest.mark.parametrize(
    ("target", "status"), [("/customers", 200), ("/telemetry/smoke", 200), ("/x", 404), ("*", 404)]
)
def test_options_share_one_span_name(api, target, status):
    assert api.http(post(target, method="OPTIONS"))[0] == status
    assert names(api) == ["OPTIONS"]


def test_a_routed_request_is_named_after_its_route_whatever_its_query(api):
    api.http(post("/telemetry/smoke?user=1"))
    assert names(api)[-1] == "POST /telemetry/smoke"


CONTEXT = (f"traceparent: {TRACEPARENT}", "tracestate: vendor=value", "baggage: user=someone")


@pytest.mark.parametrize("trust", [None, "", "false", "0", "no", "yes please"])
def test_a_untrusted_callers_context_is_dropped(api, monkeypatch, trust):
    monkeypatch.delenv("TRUST_INCOMING_TRACE_CONTEXT")
    given = {} if trust is None else {"TRUST_INCOMING_TRACE_CONTEXT": trust}
    assert api.http(post("/customers", *CONTEXT), **given)[0] == 202
    assert api.spans.one("POST /customers").parent is None
    attributes = api.sqs.messages[0]["MessageAttributes"]
    assert list(attributes) == ["traceparent"]
    assert TRACEPARENT[3:35] not in attributes["traceparent"]["StringValue"]


@pytest.mark.parametrize("headers", [CONTEXT, tuple(header.upper() for header in CONTEXT), (*CONTEXT, CONTEXT[2])])
def test_a_untrusted_callers_context_is_dropped_in_every_spelling(api, headers):
    api.http(post("/customers", *headers))
    assert list(api.sqs.messages[0]["MessageAttributes"]) == ["traceparent"]
    assert api.spans.one("POST /customers").parent is None


@pytest.mark.parametrize(("trust", "kept"), [("false", []), ("true", ["TRACEPARENT", "TRACESTATE", "BAGGAGE"])])
def test_exactly_the_three_context_headers_are_dropped_or_kept(api, trust, kept):
    names = ["HOST", "TRACEPARENT", "TRACESTATE", "BAGGAGE", "X-TRACEPARENT", "CONTENT-TYPE"]
    request = SimpleNamespace(headers=[(name, "value") for name in names])
    api.configuration(TRUST_INCOMING_TRACE_CONTEXT=trust).pre_request(None, request)
    dropped = {"TRACEPARENT", "TRACESTATE", "BAGGAGE"} - set(kept)
    assert request.headers == [(name, "value") for name in names if name not in dropped]


def test_an_untrusted_caller_cannot_switch_tracing_off_with_an_unsampled_context(api):
    api.http(post("/customers", f"traceparent: {TRACEPARENT[:-2]}00"))
    assert len(names(api)) == 3


def test_other_headers_are_kept(api):
    api.http(post("/customers", *CONTEXT, "User-Agent: curl"))
    assert api.spans.one("POST /customers").attributes["user_agent.original"] == "curl"


@pytest.mark.parametrize("trust", ["true", "True", "TRUE"])
def test_a_trusted_context_is_continued(api, trust):
    api.http(post("/customers", *CONTEXT), TRUST_INCOMING_TRACE_CONTEXT=trust)
    parent = api.spans.one("POST /customers").parent
    assert f"{parent.trace_id:032x}-{parent.span_id:016x}" == TRACEPARENT[3:52]
    values = {name: item["StringValue"] for name, item in api.sqs.messages[0]["MessageAttributes"].items()}
    assert values.pop("traceparent").startswith(TRACEPARENT[:36])
    assert values == {"tracestate": "vendor=value", "baggage": "user=someone"}


def test_a_trusted_context_that_is_not_sampled_is_not_recorded(api):
    api.http(post("/customers", f"traceparent: {TRACEPARENT[:-2]}00"), TRUST_INCOMING_TRACE_CONTEXT="true")
    assert names(api) == []
    assert api.sqs.messages[0]["MessageAttributes"]["traceparent"]["StringValue"].endswith("-00")


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("tracestate: ", id="empty tracestate"),
        pytest.param("tracestate: =,=", id="malformed tracestate"),
        pytest.param("tracestate: a=\xe9", id="tracestate not ASCII"),
        pytest.param("tracestate: " + ",".join(f"k{n}=v" for n in range(60)), id="tracestate of 60 members"),
        pytest.param("tracestate: a=" + "v" * 8_000, id="tracestate of 8000 characters"),
        pytest.param("baggage: ", id="empty baggage"),
        pytest.param("baggage: =;,;=", id="malformed baggage"),
        pytest.param("baggage: a=%00%0a%ff%ed%a0%80", id="baggage of quoted control characters"),
        pytest.param("baggage: a=\xe9\x85\xff", id="baggage not ASCII"),
        pytest.param("baggage: " + ",".join(f"k{n}=v" for n in range(500)), id="baggage of 500 members"),
        pytest.param("baggage: a=" + "%00" * 2_600, id="baggage of 2600 quoted characters"),
        pytest.param("traceparent: 00-0-0-01", id="malformed traceparent"),
        pytest.param(f"traceparent: {TRACEPARENT}\r\ntraceparent: {TRACEPARENT}", id="two traceparents"),
    ],
)
def test_a_hostile_context_from_a_trusted_edge_costs_no_message(api, header):
    raw = post("/customers", f"traceparent: {TRACEPARENT}", header)
    assert api.http(raw, TRUST_INCOMING_TRACE_CONTEXT="true")[0] == 202
    assert len(api.sqs.messages) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(202, chunks(CUSTOMER), id="one chunk"),
        pytest.param(202, chunks(*(CUSTOMER[n : n + 1] for n in range(len(CUSTOMER)))), id="a byte a chunk"),
        pytest.param(202, chunks(CUSTOMER, b" " * (65_536 - len(CUSTOMER))), id="exactly 64 KiB"),
        pytest.param(202, chunks(CUSTOMER, end=b"0\r\nX: y\r\n\r\n"), id="with a trailer"),
        pytest.param(413, chunks(CUSTOMER, b" " * (65_537 - len(CUSTOMER))), id="valid JSON, a byte over 64 KiB"),
        pytest.param(413, chunks(CUSTOMER, b" " * 65_536, b"x"), id="valid JSON up to 64 KiB"),
        pytest.param(413, chunks(*[b" " * 1024] * 100), id="over 64 KiB in small chunks"),
        pytest.param(413, chunks(b" " * 1_000_000), id="over 64 KiB in one chunk"),
        pytest.param(400, chunks(), id="no chunk"),
        pytest.param(400, b"zz\r\n" + CUSTOMER, id="size that is no number"),
        pytest.param(400, b"-1\r\n" + CUSTOMER, id="negative size"),
        pytest.param(400, b'1a;"\r\n' + CUSTOMER + b"\r\n0\r\n\r\n", id="malformed extension"),
        pytest.param(400, b"3\r\n" + CUSTOMER + b"\r\n0\r\n\r\n", id="wrong size"),
        pytest.param(400, chunks(CUSTOMER, end=b"0\r\nnonsense\r\n\r\n"), id="malformed trailer"),
        pytest.param(400, chunks(CUSTOMER, end=b"0\r\nHost: b\r\n\r\n"), id="forbidden trailer"),
        pytest.param(400, b"ff\r\n{", id="cut in a chunk"),
        pytest.param(400, chunks(CUSTOMER, end=b""), id="cut before the last chunk"),
        pytest.param(400, chunks(CUSTOMER, end=b"0\r\n"), id="cut in the last chunk"),
    ],
)
def test_a_chunked_body_is_accepted_or_rejected_and_never_our_error(api, status, body):
    responded, content = api.http(post("/customers", CHUNKED, body=body))
    assert responded == status, content
    assert len(api.sqs.messages) == (1 if status == 202 else 0)
    assert content.startswith(b'{"customer_id"' if status == 202 else b'{"error": "')


def test_a_body_shorter_than_its_length_is_rejected(api):
    assert api.http(post()[:-1])[0] == 400


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(post().replace(b"HTTP/1.1", b"HTTP/9"), id="version"),
        pytest.param(post("/customers", "Content-Length: 1"), id="two lengths"),
        pytest.param(post("/customers", CHUNKED, "Content-Length: 1"), id="length and chunked"),
        pytest.param(post("/customers", "traceparent: \x00"), id="NUL in a header"),
        pytest.param(post("/customers", "baggage: \x1b[31m"), id="escape in a header"),
        pytest.param(post("/customers", "Host: b"), id="two hosts"),
    ],
)
def test_malformed_http_never_reaches_the_application(api, raw):
    with pytest.raises(ParseException):
        api.http(raw)


def test_malformed_chunks_are_called_that(api):
    _, content = api.http(post("/customers", CHUNKED, body=b"zz\r\n"))
    assert content == b'{"error": "The body is not valid chunked encoding."}\n'


def test_a_load_balancer_closes_first(api):
    assert api.configuration().keepalive > 60  # the time-out of an Application Load Balancer, in seconds


def test_the_connections_of_a_worker_fit_into_its_open_files(api):
    config = api.configuration()
    assert config.worker_connections + config.threads + 64 < 1024  # one to SQS for each thread; a usual limit


def test_a_request_has_fifteen_seconds_from_its_first_byte_to_its_last(api):
    api.configuration()
    timeouts = []
    unreader = SocketUnreader(SimpleNamespace(settimeout=timeouts.append, recv=lambda size: b"x"))
    for passed in (0, 10, 10):
        if timeouts:
            unreader.ends -= passed
        assert unreader.chunk() == b"x"
    assert 14 < timeouts[0] <= 15
    assert 4 < timeouts[1] <= 5
    assert timeouts[2] == 0.001  # what is there is still read; 0 would mean "do not wait" and raise another error


class Unread:
    """A body that goes on for some pieces of 64 KiB and then ends, or fails."""

    def __init__(self, pieces, error=None):
        self.pieces, self.error, self.failed = pieces, error, False

    def read(self, size):
        """Return a piece."""
        self.pieces -= 1
        if self.pieces < 0 and self.error:
            self.failed = True  # as gunicorn's
            raise self.error
        return b"x" * size if self.pieces >= 0 else b""


@pytest.mark.parametrize(
    ("pieces", "error", "closes"),
    [
        pytest.param(0, None, False, id="nothing"),
        pytest.param(160, None, False, id="10 MiB"),
        pytest.param(100_000, None, True, id="much more"),
        pytest.param(1, InvalidChunkSize(b"zz"), True, id="malformed"),
        pytest.param(1, TimeoutError(), True, id="too slow"),
        pytest.param(1, NoMoreData(), True, id="cut off"),
    ],
)
def test_an_unread_body_is_discarded_or_ends_the_connection(api, pieces, error, closes):
    request = SimpleNamespace(body=Unread(pieces, error), unreader=SimpleNamespace(ends=1))
    api.configuration().post_request(None, request, {}, None)
    assert request.body.failed is closes
    assert not hasattr(request.unreader, "ends")  # the next request has its own time


def test_each_thread_has_a_connection_to_sqs(api):
    assert api.module.SQS_CONFIG.max_pool_connections >= api.configuration().threads


def test_what_the_configuration_changes_in_gunicorn_is_there():
    """They are no settings: gunicorn may rename them. tests/e2e/test_api_connections.py shows what they do."""
    assert list(inspect.signature(SocketUnreader.chunk).parameters)[1:] == ["size_hint"]
    assert gthread.DEFAULT_WORKER_DATA_TIMEOUT > 0
    assert {"timeout", "max_drain"} <= inspect.signature(util.close_graceful).parameters.keys()
    assert Body(None).failed is False
    assert Parser({}, iter([]), None).unreader
