"""One span for each record with two attributes and no links: the stock SDK, exporter and flush."""

import os

from business import failures, process
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind

resource = {"service.name": os.environ["SERVICE_NAME"], "service.namespace": os.environ["SERVICE_NAMESPACE"]}
provider = TracerProvider(resource=Resource.create(resource))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer(__name__)


def _flatten_attrs(msg_attrs):
    out = {}
    if msg_attrs:
        for k, v in msg_attrs.items():
            sval = v.get("stringValue") or v.get("StringValue")
            if isinstance(sval, str):
                out[k.lower()] = sval
    return out


def _extract_parent(rec):
    h = _flatten_attrs(rec.get("messageAttributes") or {})
    if "traceparent" in h:
        return propagate.extract(h)
    return None


def _process_record(rec):
    parent_ctx = _extract_parent(rec)
    with tracer.start_as_current_span("sqs.process", context=parent_ctx, kind=SpanKind.CONSUMER) as span:
        span.set_attribute("messaging.system", "aws.sqs")
        span.set_attribute("messaging.destination.name", "cal-onboarding-queue")
        process(rec)


def handler(event, context):
    """Process an SQS event."""
    result = failures(event.get("Records", []), _process_record)
    provider.force_flush(timeout_millis=5000)
    return result
