"""What unit and contract tests share: both programs, loaded as they ship, with their spans kept in memory.

Instrumentations, log handlers and patches are process-wide, and the threads of another test's stack may be running in
this process: a test sees the spans and log lines of its own thread only.
"""

import functools
import importlib.util
import json
import logging
import os
import re
import sys
import threading
import time
import uuid
from types import SimpleNamespace

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser
from gunicorn.http.wsgi import create
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once
from xdist.scheduler.loadscope import LoadScopeScheduling

import shipped
from lambda_variables import GIVEN_BY_LAMBDA

SLOW_FOLDERS = ["deployment", "faults", "e2e"]  # the slowest first
VARIABLES = {
    "AWS_REGION": "us-east-1",
    "IMAGE_TAG": "test",
    "QUEUE_URL": "http://127.0.0.1:9/queue/cal-onboarding-queue",
    "CORALOGIX_DOMAIN": "coralogix.invalid",
    "CORALOGIX_PRIVATE_KEY": "test",
}


def own_thread():
    """Return a function that says whether it is called in the thread that called this."""
    own = threading.get_ident()
    return lambda *_: threading.get_ident() == own


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Begin with the folders whose tests take long, so that the workers (pytest -n) end together."""
    place = {folder: number for number, folder in enumerate(SLOW_FOLDERS)}
    items.sort(key=lambda item: place.get(item.path.parent.name, len(place)))


def pytest_xdist_auto_num_workers():
    """Let pytest -n auto start more workers than there are processors: many tests wait for most of their time."""
    cores = os.cpu_count() or 1
    return cores + (cores + 1) // 2


def pytest_xdist_make_scheduler(config, log):
    """Keep on one worker what shares something; see Scheduler."""
    config.option.loadscopereorder = False
    return Scheduler(config, log)


class Scheduler(LoadScopeScheduling):
    """Gives a worker a file, all drills, all end-to-end tests of the one stack, or one test that starts a demo.

    Each worker can deploy to AWS's emulator once and test on copies; for the few tests that are not slow, one has to.
    """

    def _split_scope(self, nodeid):
        path = nodeid.partition("::")[0]
        folder = path.rpartition("/")[0]
        if folder == "tests/e2e" and asks_for(path, "demo"):
            return nodeid
        if folder == "tests/deployment" and self.config.option.markexpr == "slow":
            return nodeid.partition("[")[0]
        if folder in ("tests/deployment", "tests/faults") or asks_for(path, "stack|call|onboard"):
            return folder
        return path


@functools.cache
def asks_for(path, fixtures):
    """Return whether a test or a fixture in a file asks for one of these fixtures."""
    return re.search(rf"^def \w+\([^)]*\b({fixtures})\b", (shipped.ROOT / path).read_text(), re.MULTILINE)


class Spans(InMemorySpanExporter):
    """Every span that ended in the thread that made this, in the order they ended."""

    def __init__(self):
        super().__init__()
        self._is_own_thread = own_thread()

    def export(self, spans):
        """Keep spans unless another thread's have ended; called in the thread in which they ended."""
        return super().export(spans if self._is_own_thread() else ())

    def named(self, name):
        """Return the ended spans of that name."""
        return [span for span in self.get_finished_spans() if span.name == name]

    def one(self, name):
        """Return the only ended span of that name."""
        (span,) = self.named(name)
        return span


class Sqs:
    """SQS behind a real boto3 client, with the limits of its documentation that moto does not enforce.

    Called by botocore in place of the network, with the request it would have sent. fail: called first with that
    request; may raise, or return an AWSResponse. messages: what was accepted, as the request's JSON.
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
    """

    MAX_BYTES = 1024 * 1024
    MAX_ATTRIBUTES = 10
    NAME = re.compile(r"(?!\.|aws\.|amazon\.|.*\.\.|.*\.$)[A-Za-z0-9_.-]{1,256}", re.IGNORECASE)
    TEXT = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")

    def __init__(self):
        self.messages = []
        self.fail = None
        self.calls = 0

    def __call__(self, request, **_):
        """Respond to SendMessage."""
        self.calls += 1
        if self.fail and (failure := self.fail(request)):
            return failure
        message = json.loads(request.body)
        if rejection := self.rejection(message["MessageBody"], message.get("MessageAttributes", {})):
            return self.response(400, {"__type": "com.amazonaws.sqs#InvalidParameterValue", "message": rejection})
        self.messages.append(message)
        return self.response(200, {"MessageId": str(uuid.uuid4())})

    @staticmethod
    def response(status, content):
        """Return an HTTP response of SQS."""
        raw = SimpleNamespace(stream=lambda: [json.dumps(content).encode()])
        return AWSResponse("", status, {"content-type": "application/x-amz-json-1.0"}, raw)

    def rejection(self, body, attributes):
        """Return why SQS would reject this message, or None."""
        size = len(body.encode(errors="surrogatepass"))
        if len(attributes) > self.MAX_ATTRIBUTES:
            return f"{len(attributes)} attributes"
        if not self.TEXT.fullmatch(body):
            return "characters of the body"
        for name, attribute in attributes.items():
            if not self.NAME.fullmatch(name):
                return f"name {name!r}"
            if attribute.get("DataType") != "String":
                return f"data type of {name}"
            if not self.TEXT.fullmatch(attribute.get("StringValue", "")):
                return f"value of {name}"
            size += len((name + "String" + attribute["StringValue"]).encode())
        return f"{size} bytes" if size > self.MAX_BYTES else None


class Api:
    """The API under the shipped environment and the shipped instrumentations, called in two ways.

    client: Flask's test client. http(raw) takes the bytes of one HTTP request through gunicorn's own parser,
    gunicorn.conf.py included, as a worker would; returns (status, body).
    """

    def __init__(self, module, spans, sqs):
        self.module, self.spans, self.sqs = module, spans, sqs
        self.app = module.create_app()
        self.client = self.app.test_client()

    def post(self, body=b'{"customer_id":"TEST-001"}', path="/customers", **options):
        """POST body (bytes, or anything JSON) as application/json; return Flask's response."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(path, data=content, **{"content_type": "application/json", **options})

    def http(self, raw, peer="192.0.2.1", **environment):
        """Return (status, body) for the bytes of one request; raises gunicorn's ParseException for malformed HTTP."""
        config = self.configuration(**environment)
        request = next(RequestParser(config, iter([raw]), (peer, 50000)))
        config.pre_request(None, request)
        _, environ = create(request, None, (peer, 50000), ("127.0.0.1", 8000), config)
        statuses = []
        body = b"".join(self.app(environ, lambda status, headers, exc_info=None: statuses.append(status)))
        return int(statuses[0].split()[0]), body

    @staticmethod
    def configuration(**environment):
        """Return gunicorn's configuration as it reads it from gunicorn.conf.py with these variables."""
        config = Config()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            settings = vars(load("onboarding-api/gunicorn.conf.py"))
        for name in settings.keys() & config.settings.keys():
            config.set(name, settings[name])
        return config


def load(path):
    """Import a file of the repository by its path: both programs are called app."""
    name = re.sub(r"\W", "_", path)
    spec = importlib.util.spec_from_file_location(name, shipped.ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def caplog(caplog):
    """The caplog of pytest, without what other threads log."""
    is_own_thread = own_thread()
    caplog.handler.addFilter(is_own_thread)
    yield caplog
    caplog.handler.removeFilter(is_own_thread)  # the handler is every test's


@pytest.fixture
def sqs():
    """A fresh SQS, for what it would reject."""
    return Sqs()


@pytest.fixture(scope="module")
def loaded_api():
    """The API, loaded once for each test module."""
    levels = {
        name: logging.getLogger(name).level for name in (None, "app", "opentelemetry.exporter", "opentelemetry.sdk")
    }
    environment = shipped.container_environment("onboarding-api", VARIABLES)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        # Imported here because they read their variables when they are imported.
        from opentelemetry.instrumentation import _semconv
        from opentelemetry.instrumentation.botocore import BotocoreInstrumentor
        from opentelemetry.instrumentation.flask import FlaskInstrumentor

        patch.setattr(_semconv._OpenTelemetrySemanticConventionStability, "_initialized", False)
        spans, provider = Spans(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(spans))
        patch.setattr(trace, "_TRACER_PROVIDER", provider)
        excluded = environment["OTEL_PYTHON_FLASK_EXCLUDED_URLS"]
        FlaskInstrumentor().instrument(tracer_provider=provider, excluded_urls=excluded)
        BotocoreInstrumentor().instrument(tracer_provider=provider)
        sqs, real_client = Sqs(), boto3.client

        def client(*args, **kwargs):
            made = real_client(*args, **kwargs)
            made.meta.events.register("before-send.sqs.SendMessage", sqs)
            return made

        patch.setattr(boto3, "client", client)
        in_tests, sleep = own_thread(), time.sleep
        between_attempts = SimpleNamespace(sleep=lambda seconds: None if in_tests() else sleep(seconds))
        patch.setattr("botocore.endpoint.time", between_attempts)
        yield Api(load("onboarding-api/app.py"), spans, sqs)
        BotocoreInstrumentor().uninstrument()
        FlaskInstrumentor().uninstrument()
    for name, level in levels.items():  # the application sets them, for the whole process
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def api(loaded_api):
    """The API, with nothing sent and no span ended so far."""
    loaded_api.sqs.__init__()
    loaded_api.spans.clear()
    return loaded_api


@pytest.fixture(scope="module")
def loaded_function():
    """The Lambda, loaded once for each test module: its own provider, with an exporter in memory."""
    libraries = logging.getLogger("opentelemetry")
    level = libraries.level  # the module sets it, for the whole process
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (shipped.lambda_environment(VARIABLES) | GIVEN_BY_LAMBDA).items():
            patch.setenv(name, value)
        patch.setattr(trace, "_TRACER_PROVIDER", None)
        patch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
        patch.setitem(sys.modules, "export", load("onboarding-lambda/export.py"))
        telemetry = load("onboarding-lambda/telemetry.py")
        patch.setitem(sys.modules, "telemetry", telemetry)
        spans = Spans()
        telemetry.provider._active_span_processor._span_processors = (SimpleSpanProcessor(spans),)
        yield SimpleNamespace(module=load("onboarding-lambda/app.py"), telemetry=telemetry, spans=spans)
    libraries.setLevel(level)


@pytest.fixture
def function(loaded_function, monkeypatch):
    """The Lambda, with no span ended so far; flushes: what had ended, if a span was current, and the context given."""
    loaded_function.spans.clear()
    loaded_function.flushes = []

    def flush(context=None):
        ended = [span.name for span in loaded_function.spans.get_finished_spans()]
        loaded_function.flushes.append((ended, trace.get_current_span().get_span_context().is_valid, context))

    monkeypatch.setattr(loaded_function.telemetry, "flush", flush)
    loaded_function.context = SimpleNamespace(
        aws_request_id="invocation-1", get_remaining_time_in_millis=lambda: 15_000
    )
    loaded_function.invoke = lambda event: loaded_function.module.handler(event, loaded_function.context)
    return loaded_function
