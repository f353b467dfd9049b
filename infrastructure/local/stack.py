"""The whole path as real processes on 127.0.0.1, for the demo and for the end-to-end tests alike.

SQS, Collector, Lambda emulator and API are child processes; event source mapping and ingress run in this one.
"""

import atexit
import contextlib
import itertools
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import mirakuru
import mirakuru.exceptions
import yaml

import shipped
from event_source_mapping import EventSourceMapping, create_queues
from ingress import Ingress

TOOLS = shipped.ROOT / ".tools"
CLIENT_KEYS = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
STAND_IN = {"CORALOGIX_DOMAIN": "coralogix.invalid", "CORALOGIX_PRIVATE_KEY": "local-stand-in-key"}
# What a Go program asks about the way out; the Collector gets it where it sends to the real Coralogix.
WAY_OUT = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")

# At exit it would kill whoever has our process id anywhere in a random one of its own: another stack's processes, too.
atexit.unregister(mirakuru.base.cleanup_subprocesses)


class StackError(Exception):
    """Something of the stack can't start or has died; the message is a sentence that names it."""


_candidates = itertools.cycle(range(20_000, 32_000))
next(itertools.islice(_candidates, random.randrange(12_000), None))  # other processes begin elsewhere


def free_port():
    """Return a free port, not the same one again soon.

    It is below the range that the kernel gives to outgoing connections, so that none of them takes it meanwhile.
    """
    for port in itertools.islice(_candidates, 1000):
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port
    raise StackError("no free port between 20000 and 32000")


def poll_until(check, what, timeout=30.0):
    """Return check()'s first true value; raises StackError with what was waited for after timeout seconds."""
    deadline = time.monotonic() + timeout
    while not (result := check()):
        if time.monotonic() > deadline:
            raise StackError(f"waited {timeout:g} seconds in vain for {what}")
        time.sleep(0.05)
    return result


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

    def __post_init__(self):
        # A port that was given may be one that was also found free; the given ones stand first.
        for name in reversed(vars(self)):
            while list(vars(self).values()).count(getattr(self, name)) > 1:
                setattr(self, name, free_port())

    def check_free(self):
        """Raise StackError with the name of the first port that something else listens on."""
        for name, port in vars(self).items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    raise StackError(f"port {port} ({name}) is in use; stop what listens there and try again") from None


class Child(mirakuru.HTTPExecutor):
    """A process with a log file, ready when url answers, that sees no environment but the one it is given."""

    def __init__(self, name, command, url, environment, run_dir, cwd=None, status=200):
        self.name = name
        self.log_file = run_dir / f"{name}.log"
        self.environment = environment  # read at every start
        path = os.pathsep.join([str(run_dir), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        super().__init__(
            [str(word) for word in command],
            url,
            status=status,
            cwd=cwd,
            envvars={"PATH": path, "HOME": str(run_dir)},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            timeout=30,
        )

    @property
    def envvars(self):
        """Nothing inherited: the developer's own OTEL_* and AWS_* variables would change what is shown."""
        return {**self._envvars, **self.environment, mirakuru.base.ENV_UUID: self._uuid}

    @property
    def _popen_kwargs(self):
        kwargs = super()._popen_kwargs
        del kwargs["preexec_fn"]  # it would run Python between fork and exec, in a process with gRPC's threads
        return {**kwargs, "start_new_session": True}

    def start(self):
        """Start the process and wait until it answers; raises StackError with its last words."""
        try:
            with self.log_file.open("ab") as self._stdout:
                return super().start()
        except (mirakuru.exceptions.ExecutorError, OSError):
            raise StackError(f"{self.name} did not start. {self.last_words()}") from None

    def stop(self, *args, **kwargs):
        """Stop the process and whatever it started; how it exits does not matter here."""
        with contextlib.suppress(mirakuru.exceptions.ProcessFinishedWithError):
            super().stop(*args, **kwargs)
        return self

    def last_words(self):
        """Return a sentence with the last line of the log."""
        lines = self.log_file.read_text(errors="replace").split("\n")
        return f"Its last words in {self.log_file}: {next((line for line in reversed(lines) if line.strip()), 'none')}"


def _stop_together(children):
    with ThreadPoolExecutor(len(children)) as pool:
        list(pool.map(Child.stop, children))


class Stack(contextlib.ExitStack):
    """Everything, started when entered and stopped when left; raises StackError when something can't start.

    ports: fixed or free ones; run_dir: logs and the CA go there; visibility_timeout: seconds until SQS redelivers;
    handler: a handler in place of the function's own, and where its module is, as (directory, "module.function");
    coralogix: CORALOGIX_DOMAIN and _PRIVATE_KEY of an account, which then gets everything, too; viewer_address: an
    OTLP/gRPC server without TLS that gets everything, too, and must always answer: a full queue to it stops the others;
    most_spans: how many spans the ingress keeps, 4 to 6 KB each.
    """

    def __init__(
        self,
        run_dir,
        ports=None,
        visibility_timeout=None,
        handler=None,
        coralogix=None,
        viewer_address=None,
        most_spans=200_000,
    ):
        super().__init__()
        self.run_dir = run_dir
        self.ports = ports or Ports()
        self.url = f"http://127.0.0.1:{self.ports.api}"
        self._visibility_timeout = visibility_timeout
        self._handler = handler
        self._coralogix = coralogix
        self._viewer_address = viewer_address
        self._most_spans = most_spans
        self._variables = {"AWS_REGION": "us-east-1", "IMAGE_TAG": "local", **(coralogix or STAND_IN)}

    def __enter__(self):
        self.ports.check_free()
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self.run_dir.mkdir(parents=True)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def _start(self):
        self.ingress = self.enter_context(self._ingress())
        self.moto, self.collector, self.function = self._moto(), self._collector(), self._function()
        self._start_together(self.moto, self.collector, self.function)
        self.sqs = boto3.client("sqs", self._variables["AWS_REGION"], endpoint_url=self._sqs_endpoint(), **CLIENT_KEYS)
        self.dead_letter_queue_url, self.queue_url = self._create_queues()
        self._variables["QUEUE_URL"] = self.queue_url
        self.api = self._api()
        self._start_together(self.api)
        self.mapping = self.enter_context(self._event_source_mapping())

    def _start_together(self, *children):
        with ThreadPoolExecutor(len(children)) as pool:
            self.callback(_stop_together, children)
            list(pool.map(Child.start, children))

    def check_running(self):
        """Raise StackError when a process has died."""
        for child in (self.moto, self.collector, self.function, self.api):
            if not child.running():
                raise StackError(f"{child.name} has died. {child.last_words()}")

    def _ingress(self):
        host_name, key = f"ingress.{STAND_IN['CORALOGIX_DOMAIN']}", STAND_IN["CORALOGIX_PRIVATE_KEY"]
        return Ingress(self.ports.ingress, key, host_name, self.run_dir / "ca.pem", self._most_spans)

    def _moto(self):
        command = ["moto_server", "-H", "127.0.0.1", "-p", self.ports.sqs]
        return Child("sqs", command, f"{self._sqs_endpoint()}/moto-api/", {}, self.run_dir)

    def _sqs_endpoint(self):
        return f"http://127.0.0.1:{self.ports.sqs}"

    def _collector(self):
        # The image's own entrypoint; it finds the program as otelcol on its PATH, which starts with run_dir.
        (self.run_dir / "otelcol").symlink_to(os.environ.get("OTELCOL") or TOOLS / "otelcol")
        gates = shipped.start_command("otel/Dockerfile")[:1]  # the rest names the files where the image has them
        files = [f"--config={file}" for file in self._collector_files()]
        command = [shipped.ROOT / "otel/entrypoint.sh", *gates, *files]
        health_check = f"127.0.0.1:{self.ports.health_check}"
        environment = shipped.container_environment("otel-collector", self._variables) | {
            "OTLP_LISTEN_ADDRESS": f"127.0.0.1:{self.ports.collector}",
            "HEALTH_CHECK_ADDRESS": health_check,
            "COLLECTOR_METRICS_PORT": str(self.ports.collector_metrics),
            "INGRESS_ADDRESS": f"127.0.0.1:{self.ports.ingress}",
            "INGRESS_CA_FILE": str(self.run_dir / "ca.pem"),
        }
        if self._coralogix:
            environment |= {"STAND_IN_KEY": STAND_IN["CORALOGIX_PRIVATE_KEY"]}
            environment |= {name: os.environ[name] for name in WAY_OUT if name in os.environ}
        if self._viewer_address:
            environment["VIEWER_ADDRESS"] = self._viewer_address
        return Child("otel-collector", command, f"http://{health_check}", environment, self.run_dir)

    def _collector_files(self):
        """Return the shipped configuration and what is merged over it here, in that order."""
        names = ["collector", "own-coralogix" if self._coralogix else "stand-in"]
        additions = ["otlp_grpc/stand-in"] if self._coralogix else []
        if self._viewer_address:
            names.append("viewer")
            additions.append("otlp_grpc/viewer")
        local = shipped.ROOT / "infrastructure/local"
        pipelines = self.run_dir / "pipelines.yaml"
        pipelines.write_text(yaml.safe_dump(shipped.pipelines_with(additions)))
        return [
            shipped.ROOT / "otel/coralogix-collector.yaml",
            *(local / f"{name}-overlay.yaml" for name in names),
            pipelines,
        ]

    def _function(self):
        function = shipped.read_json("lambda.json")
        address = f"127.0.0.1:{self.ports.function}"
        handler_path, *handler = self._handler or ("", *shipped.start_command("onboarding-lambda/Dockerfile"))
        command = [
            TOOLS / "aws-lambda-rie",
            f"--runtime-interface-emulator-address={address}",
            f"--runtime-api-address=127.0.0.1:{self.ports.runtime_api}",
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
        # The emulator answers only invocations; 404 means that it listens.
        return Child("onboarding-lambda", command, f"http://{address}", environment, self.run_dir, cwd, status=404)

    def _create_queues(self):
        return create_queues(self.sqs, self._visibility_timeout)

    def _api(self):
        command = [*shipped.start_command("onboarding-api/Dockerfile"), "--bind", f"127.0.0.1:{self.ports.api}"]
        environment = shipped.container_environment("onboarding-api", self._variables) | {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.ports.collector}",
            "AWS_ENDPOINT_URL_SQS": self._sqs_endpoint(),
            "AWS_ACCESS_KEY_ID": CLIENT_KEYS["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": CLIENT_KEYS["aws_secret_access_key"],
        }
        cwd = shipped.ROOT / "onboarding-api"
        return Child("onboarding-api", command, f"{self.url}/health", environment, self.run_dir, cwd)

    def _event_source_mapping(self):
        invoke_url = f"http://127.0.0.1:{self.ports.function}/2015-03-31/functions/function/invocations"
        batch_size = shipped.read_json("event-source-mapping.json")["BatchSize"]
        return EventSourceMapping(self.sqs, self.queue_url, invoke_url, batch_size)
