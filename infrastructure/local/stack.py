"""The whole path as real processes on 127.0.0.1, for the demo and for the end-to-end tests alike.

SQS, Collector, Lambda emulator and API are child processes; event source mapping and ingress run in this one.
"""

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

import yaml

import shipped
from child import Child, StackError
from child import poll_until as poll_until  # for those who start a stack
from event_source_mapping import QUEUE, EventSourceMapping, create_queues, sqs_client
from ingress import Ingress

TOOLS = shipped.ROOT / ".tools"
ACCOUNT_ID = "123456789012"  # moto's
CLIENT_KEYS = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
STAND_IN = {"CORALOGIX_DOMAIN": "coralogix.invalid", "CORALOGIX_PRIVATE_KEY": "local-stand-in-key"}
# What a Go program asks about the way out; the Collector gets it where it sends to the real Coralogix.
WAY_OUT = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")

_candidates = itertools.cycle(range(20_000, 32_000))
next(itertools.islice(_candidates, random.randrange(12_000), None))  # other processes begin elsewhere
_interrupts: list[int] = []


def interrupt(number: int, _frame: object) -> None:
    """Handle a signal: the next check_running() raises KeyboardInterrupt.

    Raised at once, it could be in a library's callback, of which Python only prints exceptions, or leave a lock taken.
    """
    _interrupts.append(number)


def free_port() -> int:
    """Return a free port that no other process is given by this function while this one lives.

    It is below the range that the kernel gives to outgoing connections, so that none of them takes it meanwhile.
    """
    for port in itertools.islice(_candidates, 1000):
        candidate = socket.socket()
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            candidate.close()
            continue
        # With this option, which servers set, another socket can listen there.
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        candidate.detach()  # it stays open, bound and silent until this process ends
        return port
    raise StackError("no free port between 20000 and 32000")


@dataclass
class Ports:
    """One TCP port for everything that listens."""

    api: int = field(default_factory=free_port)
    sqs: int = field(default_factory=free_port)
    collector: int = field(default_factory=free_port)
    health_check: int = field(default_factory=free_port)
    collector_metrics: int = field(default_factory=free_port)
    function: int = field(default_factory=free_port)
    runtime_api: int = field(default_factory=free_port)
    ingress: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        # A port that was given may be one that was also found free; the given ones stand first.
        for name in reversed(vars(self)):
            while list(vars(self).values()).count(getattr(self, name)) > 1:
                setattr(self, name, free_port())

    def check_free(self) -> None:
        """Raise StackError with the name of the first port that something else listens on."""
        for name, port in vars(self).items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    raise StackError(f"port {port} ({name}) is in use; stop what listens there and try again") from None


class Task(NamedTuple):
    """What an ECS task runs, and where it listens."""

    api: Child
    collector: Child
    host: str
    ports: Ports


def _stop_together(children: tuple[Child, ...]) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(Child.stop, children))


class Stack(contextlib.ExitStack):
    """Everything, started when entered and stopped when left; raises StackError when something can't start.

    ports: fixed or free ones; run_dir: logs and the CA go there; visibility_timeout: seconds until SQS redelivers;
    handler: a handler in place of the function's own, and where its module is, as (directory, "module.function");
    coralogix: CORALOGIX_DOMAIN and _PRIVATE_KEY of an account, which then gets everything, too; viewer_address: an
    OTLP/gRPC server without TLS that gets every trace, too, and must always respond: a full queue to it stops the
    others; max_spans: how many spans the ingress keeps, 4 to 6 KB each; sandboxes: invocations that can run at once;
    api_address: where the API listens, if not on loopback.
    """

    def __init__(
        self,
        run_dir: Path,
        ports: Ports | None = None,
        visibility_timeout: int | None = None,
        handler: tuple[Path, str] | None = None,
        coralogix: Mapping[str, str] | None = None,
        viewer_address: str | None = None,
        max_spans: int = 200_000,
        sandboxes: int = 1,
        api_address: str | None = None,
    ) -> None:
        super().__init__()
        self.run_dir = run_dir
        self.ports = ports or Ports()
        self.url = f"http://127.0.0.1:{self.ports.api}"
        self._visibility_timeout = visibility_timeout
        self._handler = handler
        self._coralogix = coralogix
        self._viewer_address = viewer_address
        self._max_spans = max_spans
        self._sandboxes = sandboxes
        self._api_address = api_address
        self._variables = {"AWS_REGION": "us-east-1", "IMAGE_TAG": "local", **(coralogix or STAND_IN)}

    def __enter__(self) -> Self:
        self.ports.check_free()
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self.run_dir.mkdir(parents=True)
        # The image's entrypoint finds the program as otelcol on its PATH, which starts with run_dir.
        (self.run_dir / "otelcol").symlink_to(os.environ.get("OTELCOL") or TOOLS / "otelcol")
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> None:
        self.ingress = self.enter_context(self._ingress())
        self.moto, self.collector = self._moto(), self._collector()
        function_ports = [(self.ports.function, self.ports.runtime_api)]
        function_ports += [(free_port(), free_port()) for _ in range(self._sandboxes - 1)]
        self.functions = [self._function(number, *ports) for number, ports in enumerate(function_ports, 1)]
        self.function = self.functions[0]
        # SQS's own, so that the API need not wait for it.
        self._variables["QUEUE_URL"] = f"{self._sqs_endpoint()}/{ACCOUNT_ID}/{QUEUE}"
        self.api = self._api()
        self._start_together(self.moto, self.collector, *self.functions, self.api)
        self.sqs = sqs_client(self._variables["AWS_REGION"], endpoint_url=self._sqs_endpoint(), **CLIENT_KEYS)
        self.dead_letter_queue_url, self.queue_url = self._create_queues()
        self.mapping = self.enter_context(self._event_source_mapping([port for port, _ in function_ports]))

    def _start_together(self, *children: Child) -> None:
        """Start children side by side; the last one is stopped before the others, to which it may still send."""
        self.callback(_stop_together, children[:-1])
        self.callback(_stop_together, children[-1:])
        with ThreadPoolExecutor(len(children)) as pool:
            list(pool.map(Child.start, children))

    def kill(self) -> None:
        """End every process at once, with whatever it has not sent yet."""
        self.mapping.stop()
        killed = [*self.functions, self.moto, self.collector, self.api]
        # The emulator ends its runtime, which has a process group of its own, only when it is asked to end.
        how = [signal.SIGTERM] * len(self.functions) + [signal.SIGKILL] * 3
        with ThreadPoolExecutor() as pool:
            list(pool.map(Child.stop, killed, how))

    def check_running(self) -> None:
        """Raise KeyboardInterrupt after interrupt(), StackError when a process or the event source mapping has died."""
        if _interrupts:
            raise KeyboardInterrupt
        for child in (self.moto, self.collector, *self.functions, self.api):
            if not child.running():
                raise StackError(f"{child.name} has died. {child.last_words()}")
        if not self.mapping.running():
            raise StackError("the event source mapping has died; the traceback above says why.")

    def _ingress(self) -> Ingress:
        host_name, key = f"ingress.{STAND_IN['CORALOGIX_DOMAIN']}", STAND_IN["CORALOGIX_PRIVATE_KEY"]
        return Ingress(self.ports.ingress, key, host_name, self.run_dir / "ca.pem", self._max_spans)

    def _moto(self) -> Child:
        command = ["moto_server", "-H", "127.0.0.1", "-p", self.ports.sqs]
        return Child("sqs", command, f"{self._sqs_endpoint()}/moto-api/", {}, self.run_dir)

    def _sqs_endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports.sqs}"

    def another_task(self, number: int, host: str) -> Task:
        """Return one more task at a loopback address of its own; whoever asks for it starts and stops it."""
        ports = Ports()
        return Task(self._api(f"-{number}", host, ports), self._collector(f"-{number}", host, ports), host, ports)

    def _collector(self, suffix: str = "", host: str = "127.0.0.1", ports: Ports | None = None) -> Child:
        ports = ports or self.ports
        gates = shipped.start_command("otel/Dockerfile")[:1]  # the rest names the files where the image has them
        files = [f"--config={file}" for file in self._collector_files()]
        command = [shipped.ROOT / "otel/entrypoint.sh", *gates, *files]
        health_check = f"{host}:{ports.health_check}"
        environment = shipped.container_environment("otel-collector", self._variables) | {
            "OTLP_LISTEN_ADDRESS": f"{host}:{ports.collector}",
            "HEALTH_CHECK_ADDRESS": health_check,
            "COLLECTOR_METRICS_PORT": str(ports.collector_metrics),
            "INGRESS_ADDRESS": f"127.0.0.1:{self.ports.ingress}",
            "INGRESS_CA_FILE": str(self.run_dir / "ca.pem"),
        }
        if self._coralogix:
            environment |= {"STAND_IN_KEY": STAND_IN["CORALOGIX_PRIVATE_KEY"]}
            environment |= {name: os.environ[name] for name in WAY_OUT if name in os.environ}
        if self._viewer_address:
            environment["VIEWER_ADDRESS"] = self._viewer_address
        return Child(f"otel-collector{suffix}", command, f"http://{health_check}", environment, self.run_dir)

    def _collector_files(self) -> list[Path]:
        """Return the shipped configuration and what is merged over it here, in that order."""
        names = ["collector", "own-coralogix" if self._coralogix else "stand-in"]
        additions = ["otlp_grpc/stand-in"] if self._coralogix else []
        for_traces = ["otlp_grpc/viewer"] if self._viewer_address else []
        if self._viewer_address:
            names.append("viewer")
        local = shipped.ROOT / "infrastructure/local"
        pipelines = self.run_dir / "pipelines.yaml"
        pipelines.write_text(yaml.safe_dump(shipped.pipelines_with(additions, for_traces)))
        return [
            shipped.ROOT / "otel/coralogix-collector.yaml",
            *(local / f"{name}-overlay.yaml" for name in names),
            pipelines,
        ]

    def _function(self, number: int, port: int, runtime_api_port: int) -> Child:
        function = shipped.read_json("lambda.json")
        name = "onboarding-lambda" if number == 1 else f"onboarding-lambda-{number}"
        address = f"127.0.0.1:{port}"
        handler_path, *handler = self._handler or ("", *shipped.start_command("onboarding-lambda/Dockerfile"))
        command = [
            TOOLS / "aws-lambda-rie",
            f"--runtime-interface-emulator-address={address}",
            f"--runtime-api-address=127.0.0.1:{runtime_api_port}",
            *(sys.executable, "-m", "awslambdaric", *handler),
        ]
        environment = shipped.lambda_environment(self._variables) | {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.ports.collector}",
            "AWS_REGION": self._variables["AWS_REGION"],
            "AWS_LAMBDA_FUNCTION_NAME": function["FunctionName"],
            "AWS_LAMBDA_FUNCTION_TIMEOUT": str(function["Timeout"]),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function["MemorySize"]),
            "PYTHONPATH": str(handler_path),
        }
        cwd = shipped.ROOT / "onboarding-lambda"
        # The emulator serves only invocations; 404 means that it listens.
        return Child(name, command, f"http://{address}", environment, self.run_dir, cwd, status=404)

    def _create_queues(self) -> tuple[str, str]:
        return create_queues(self.sqs, self._visibility_timeout)

    def _api(self, suffix: str = "", host: str = "127.0.0.1", ports: Ports | None = None) -> Child:
        ports = ports or self.ports
        command = [
            *shipped.start_command("onboarding-api/Dockerfile"),
            "--bind",
            f"{self._api_address or host}:{ports.api}",
        ]
        environment = shipped.container_environment("onboarding-api", self._variables) | {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{host}:{ports.collector}",
            "AWS_ENDPOINT_URL_SQS": self._sqs_endpoint(),
            "AWS_ACCESS_KEY_ID": CLIENT_KEYS["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": CLIENT_KEYS["aws_secret_access_key"],
        }
        cwd = shipped.ROOT / "onboarding-api"
        url = f"http://{host}:{ports.api}/health"
        return Child(f"onboarding-api{suffix}", command, url, environment, self.run_dir, cwd)

    def _event_source_mapping(self, function_ports: list[int]) -> EventSourceMapping:
        urls = [f"http://127.0.0.1:{port}/2015-03-31/functions/function/invocations" for port in function_ports]
        batch_size = shipped.read_json("event-source-mapping.json")["BatchSize"]
        return EventSourceMapping(self.sqs, self.queue_url, urls[0], batch_size, urls[1:])
