"""The function's OpenTelemetry SDK, set up when the module loads, and the flush at the end of an invocation.

In the order of https://opentelemetry.io/docs/languages/python/instrumentation/. The exporter and the processor in
export.py take the place of OTLPSpanExporter and BatchSpanProcessor, whose flush keeps no deadline and loses spans.
"""

import itertools
import logging
import os
from typing import Protocol

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider

from export import IdentityResource, OTLPClient, RetainingSpanProcessor

FLUSH_MILLIS = 2000
MARGIN_MILLIS = 500  # what a flush leaves of the invocation's time

log = logging.getLogger("onboarding-lambda")
# The level in the function's LoggingConfig; without one Lambda would leave the logger at WARNING.
_LEVELS = logging.getLevelNamesMapping() | {"TRACE": logging.DEBUG}
log.setLevel(_LEVELS.get(os.environ.get("AWS_LAMBDA_LOG_LEVEL", "").strip().upper(), logging.INFO))
_invocations = itertools.count()
_STARTED_AHEAD = {"provisioned-concurrency", "lambda-managed-instances"}  # no invocation waits for such a sandbox


class LambdaContext(Protocol):
    """What is used of https://docs.aws.amazon.com/lambda/latest/dg/python-context.html."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int:
        """Return how much of the function's timeout is left."""


# OTEL_RESOURCE_ATTRIBUTES adds version and environment. https://opentelemetry.io/docs/specs/semconv/resource/faas/
_resource = Resource.create(
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
resource = IdentityResource(_resource.attributes, _resource.schema_url)
# A link for each record of a batch, where the SDK would keep the last 128; and no attribute that fills a request.
limits = SpanLimits(max_links=10_000, max_attribute_length=4096, max_span_attribute_length=4096)
client = OTLPClient(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""), os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""))
processor = RetainingSpanProcessor(client)
provider = TracerProvider(resource=resource, span_limits=limits)
provider.add_span_processor(processor)
trace.set_tracer_provider(provider)
# From here on OpenTelemetry would only log what is wrong with a record, in its sender's words and without its trace id.
logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)


def flush(context: LambdaContext) -> None:
    """Send every ended span in what is left of the invocation's time, and log whether that is complete."""
    budget_millis = min(FLUSH_MILLIS, context.get_remaining_time_in_millis() - MARGIN_MILLIS)
    result = processor.flush(budget_millis / 1000)
    if result.complete:
        log.info("Flush complete accepted=%s", result.accepted)
        return
    dropped = ",".join(f"{reason}:{count}" for reason, count in result.dropped.items()) or "none"
    counts = (result.accepted, result.remaining, dropped, result.cause or "none")
    log.warning("Flush incomplete accepted=%s remaining=%s dropped=%s cause=%s", *counts)


def invocation_attributes(context: LambdaContext) -> dict[str, str | bool]:
    """Return the attributes of one invocation: https://opentelemetry.io/docs/specs/semconv/faas/faas-spans/."""
    return {
        "faas.invocation_id": context.aws_request_id,
        "faas.trigger": "pubsub",
        "faas.coldstart": next(_invocations) == 0
        and os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") not in _STARTED_AHEAD,
    }
