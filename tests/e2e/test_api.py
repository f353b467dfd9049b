"""The API as any caller meets it: that gunicorn, its configuration, the application and auto-instrumentation are wired.

What each of them does is in tests/unit/test_api.py and test_api_behind_gunicorn.py.
"""

from stack import poll_until

HOSTILE = {
    "traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-00",
    "tracestate": "vendor=value",
    "baggage": "user=someone",
}


def test_a_request_that_is_wrong_gets_its_status_and_a_message(call):
    status, response, _ = call("POST", "/customers", '{"customer_id":')
    assert (status, response) == (400, {"error": "The body is not valid JSON."})


def test_health_is_not_traced_but_a_url_with_that_word_is(stack, onboard, trace_with, call):
    assert call("GET", "/health")[0] == 200
    status, queued, _ = call("POST", "/customers?from=/health", {"customer_id": "TEST-health"})
    assert status == 202
    trace_with(queued["trace_id"], 4)
    assert not [s for s in stack.ingress.spans() if s.name == "GET /health"]


def test_unrouted_paths_do_not_become_span_names(stack, call):
    def names():
        return {span.name for span in stack.ingress.spans() if span.attributes.get("http.status_code") in (404, 405)}

    for number in range(5):
        assert call("GET", f"/nowhere/{number}")[0] == 404
    assert call("DELETE", "/customers")[0] == 405
    assert call("BREW", "/coffee")[0] == 404
    poll_until(lambda: {"GET", "DELETE", "HTTP"} <= names(), "the spans of the rejected requests")
    assert names() <= {"GET", "PUT", "POST", "DELETE", "HTTP"}


def test_an_untrusted_callers_trace_context_does_not_get_in(stack, call, trace_with):
    status, queued, _ = call("POST", "/customers", {"customer_id": "TEST-untrusted"}, HOSTILE)
    assert status == 202
    assert queued["trace_id"] not in HOSTILE["traceparent"]
    spans = trace_with(queued["trace_id"], 4)
    assert not [span for span in spans if "someone" in str(span) or "vendor" in str(span)]
