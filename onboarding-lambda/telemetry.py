"""The Lambda's OpenTelemetry SDK, set up by hand when the module loads, and the flush that ends every invocation."""

import collections
import itertools
import logging
import os

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

FLUSH_MILLIS = 2000
MAX_SPANS = 16_384  # what a full batch of 10,000 records needs; older spans are dropped first

log = logging.getLogger("onboarding-lambda")
_invocations = itertools.count()


class RetainingSpanProcessor(SpanProcessor):
    """Keeps ended spans until an export has accepted them.

    The SDK's BatchSpanProcessor drops a batch that failed and still answers True, so a flush could not tell the truth.
    """

    def __init__(self, exporter):
        self._exporter = exporter
        self.spans = collections.deque(maxlen=MAX_SPANS)

    def on_end(self, span):
        """Keep an ended span, unless its trace is not sampled."""
        if span.context.trace_flags.sampled:
            self.spans.append(span)

    def force_flush(self, timeout_millis=FLUSH_MILLIS):
        """Export what is kept; return whether all of it was accepted."""
        if self.spans and self._exporter.export(tuple(self.spans)) is SpanExportResult.SUCCESS:
            self.spans.clear()
        return not self.spans


def flush():
    """Send every ended span and log whether that is complete; spans that were not accepted wait for the next flush."""
    sending = len(_processor.spans)
    if provider.force_flush(FLUSH_MILLIS):
        log.info("Flush complete spans=%s", sending)
    else:
        log.warning("Flush incomplete spans=%s remaining=%s", sending, len(_processor.spans))


def invocation_attributes(context):
    """Return the attributes of one invocation; context is the Lambda context object."""
    return {
        "faas.invocation_id": context.aws_request_id,
        "faas.trigger": "pubsub",
        "faas.coldstart": next(_invocations) == 0,
    }


def _resource():
    """Return the resource: OTEL_RESOURCE_ATTRIBUTES, then the function's own variables, then what Lambda says."""
    return Resource.create(
        {
            "service.name": os.environ["SERVICE_NAME"],
            "service.namespace": os.environ["SERVICE_NAMESPACE"],
            "cx.application.name": os.environ["CX_APPLICATION"],
            "cx.subsystem.name": os.environ["CX_SUBSYSTEM"],
            "cloud.provider": "aws",
            "cloud.platform": "aws_lambda",
            "cloud.region": os.environ["AWS_REGION"],
            "faas.name": os.environ["AWS_LAMBDA_FUNCTION_NAME"],
            "faas.version": os.environ["AWS_LAMBDA_FUNCTION_VERSION"],
            "faas.instance": os.environ["AWS_LAMBDA_LOG_STREAM_NAME"],
            "faas.max_memory": int(os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]) * 1024 * 1024,
        }
    )


# Endpoint and headers come from OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_HEADERS.
_processor = RetainingSpanProcessor(OTLPSpanExporter(timeout=FLUSH_MILLIS / 1000))
# A batch has one link per record, and the SDK would keep only 128.
provider = TracerProvider(resource=_resource(), span_limits=SpanLimits(max_links=10_000))
provider.add_span_processor(_processor)
trace.set_tracer_provider(provider)
