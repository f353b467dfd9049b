"""Ingress and Collector alone, with the shipped configuration: for what needs no API, no queue and no function."""

import re

import grpc
import yaml

import shipped
from stack import Stack

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
SECONDS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
WAITING_TIMES = ("metrics_flush_interval", "metrics_expiration", "series_expiration")


class CollectorOnly(Stack):
    """The two, started when entered and stopped when left.

    faster: by how much the connectors' shipped waiting times are shortened; without it they are those of the local
    overlay. variables: what the Collector's environment has besides or instead.
    """

    def __init__(self, run_dir, faster=None, **variables):
        super().__init__(run_dir)
        self._faster = faster
        self._given = variables

    def _start(self):
        self.ingress = self.enter_context(self._ingress())
        self.collector = self._collector()
        self.collector.environment |= self._given
        self._start_together(self.collector)
        channel = self.enter_context(grpc.insecure_channel(f"127.0.0.1:{self.ports.collector}"))
        self._export = channel.unary_unary(EXPORT)

    def send(self, request):
        """Send a serialized ExportTraceServiceRequest; raises grpc.RpcError when the Collector does not take it."""
        self._export(request, timeout=20)

    def _collector_files(self):
        files = super()._collector_files()
        if self._faster:
            shorter = self.run_dir / "shorter.yaml"
            shorter.write_text(yaml.safe_dump({"connectors": shortened(self._faster)}))
            files.append(shorter)
        return files


def shortened(factor):
    """Return the connectors' shipped waiting times, all divided by factor, as an overlay's connectors."""
    connectors = yaml.safe_load((shipped.ROOT / "otel/coralogix-collector.yaml").read_text())["connectors"]
    return {
        name: {key: f"{1000 * seconds(connector[key]) / factor:.0f}ms" for key in WAITING_TIMES}
        for name, connector in connectors.items()
    }


def seconds(duration):
    """Return a duration of the Collector's configuration, such as 1m or 200ms, in seconds."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", duration).groups()
    return int(number) * SECONDS[unit]
