"""The untraced function inside opentelemetry-instrumentation-aws-lambda, with the stock SDK and exporter."""

import os

from business import failures, process
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.aws_lambda import AwsLambdaInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)


def handler(event, context):
    """Process an SQS event."""
    return failures(event["Records"], process)


os.environ["_HANDLER"] = f"{__name__}.handler"
AwsLambdaInstrumentor().instrument()
