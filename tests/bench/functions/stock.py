"""The shipped function with the stock exporter and BatchSpanProcessor: the same spans, attributes, links and lines."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor


class Processor(BatchSpanProcessor):
    """The stock processor, under the name and with the flush that telemetry.py expects."""

    def flush(self, timeout):
        """Send every span; what is returned says so whether it is true or not."""
        return SimpleNamespace(complete=self.force_flush(int(timeout * 1000)), accepted="?")


sys.path.append(str(Path(__file__).parents[3] / "onboarding-lambda"))
sys.modules["export"] = export = ModuleType("export")
export.IdentityResource, export.RetainingSpanProcessor = Resource, Processor
export.OTLPClient = lambda endpoint, headers: OTLPSpanExporter()  # which reads both variables itself

from app import handler  # noqa: E402, F401 (it imports the module made above)
