"""One drill on the running stack: load and faults in, evidence and a row of the table out."""

import contextlib
import http.client
import itertools
import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
from google.rpc import error_details_pb2, status_pb2

import event_source_mapping
import flood
import shipped
from accounting import Delivery, Evidence, Life, Response, account
from proxy import Proxy
from stack import Stack, Task, poll_until

# Longer than the API keeps a span without trying to send it, and than a try: OTEL_BSP_SCHEDULE_DELAY, OTLP_TIMEOUT.
QUIET_SECONDS = 3.5
PATIENCE = 120  # seconds; the machine may be busy with other things
HANDLER = (Path(__file__).parent, "faulty.handler")


class Keeper:
    """Hands out the stack of the drills; a new one after a drill that has failed. options: the Stack's."""

    def __init__(self, directory, **options):
        self._directory = directory
        self._options = {"visibility_timeout": 2, "handler": HANDLER, **options}
        self._number = 0
        self._stack = None

    def stack(self):
        """Return the running stack."""
        if not self._stack:
            self._number += 1
            self._stack = Stack(self._directory / str(self._number), **self._options).__enter__()
        return self._stack

    def stop(self):
        """Stop the stack if there is one."""
        if self._stack:
            self._stack.close()
        self._stack = None


class Drill:
    """Drives a stack that others have left clean, and collects the Evidence; starts with a fresh Collector.

    tasks: where requests are sent, in turn, and Collectors are asked; a drill may change it.
    """

    def __init__(self, stack, fault):
        self.stack = stack
        self.row = None
        self.evidence = Evidence()
        self.tasks = [Task(stack.api, stack.collector, "127.0.0.1", stack.ports)]
        self._turns = itertools.count()
        self._fault = fault
        self._in_process_logs = []
        children = (stack.api, stack.collector, *stack.functions)
        self._offsets = {child: child.log_file.stat().st_size for child in children}
        stack.mapping.observe = self._observe
        stack.ingress.responder = None
        stack.collector.stop()
        stack.ingress.forget()
        stack.collector.start()

    # Load

    def post(self, path="/customers", headers=(), body=None, method="POST", **fields):
        """Send one request; return its Response."""
        body = body or json.dumps({"customer_id": "TEST-001", **fields}).encode()
        began = time.monotonic()
        task = self.tasks[next(self._turns) % len(self.tasks)]
        connection = http.client.HTTPConnection(task.host, task.ports.api, timeout=20)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **dict(headers)})
            response = connection.getresponse()
            status, content = response.status, response.read()
        except (OSError, http.client.HTTPException):
            status, content = None, b""
        finally:
            connection.close()
        queued = json.loads(content) if status == 202 else {}
        ids = {key: queued[key] for key in ("request_id", "message_id", "trace_id") if queued}
        posted = Response(status, time.monotonic(), time.monotonic() - began, **ids)
        self.evidence.responses.append(posted)
        return posted

    def load(self, count, threads=4, **request):
        """Send count requests; return their Responses."""
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda _: self.post(**request), range(count)))

    @contextlib.contextmanager
    def traffic(self, threads=2, pause=0.1, **request):
        """Send requests while the block runs, each thread with a pause in seconds after each."""
        over = threading.Event()

        def send():
            while not over.is_set():
                self.post(**request)
                over.wait(pause)

        with ThreadPoolExecutor(threads) as pool:
            senders = [pool.submit(send) for _ in range(threads)]
            try:
                yield
            finally:
                over.set()
        for sender in senders:
            sender.result()

    def send(self, body, request_id="", **attributes):
        """Put a message on the queue past the API; return its id."""
        values = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        queue = self.stack.queue_url
        message = self.stack.sqs.send_message(QueueUrl=queue, MessageBody=body, MessageAttributes=values)
        self.evidence.sent[message["MessageId"]] = request_id
        return message["MessageId"]

    def invoke(self, records):
        """Call the function with records past the queue, each of them accepted from now on; return its raw response."""
        self._note(records)
        return self.stack.mapping.invoke(records)

    def invoke_in_process(self, records):
        """Call the shipped handler with records in a Python of its own, which ends in order; see in_process.py."""
        function = shipped.ROOT / "onboarding-lambda"
        given = {"AWS_LAMBDA_LOG_STREAM_NAME": "in-process", "AWS_LAMBDA_FUNCTION_VERSION": "1"}
        run = subprocess.run(
            [sys.executable, Path(__file__).parent / "in_process.py"],
            input=json.dumps({"Records": records}),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=self.stack.function.environment | given | {"PYTHONPATH": str(function)},
            check=False,
        )
        assert run.returncode == 0, run.stderr
        self._in_process_logs.append(run.stderr)
        for number, result in enumerate(json.loads(run.stdout)):
            delivered = records if number == 0 else []
            self._note(delivered)
            self._observe(delivered, json.dumps(result).encode())

    def _note(self, records):
        for record in records:
            self.evidence.sent.setdefault(record["messageId"], json.loads(record["body"])["request_id"])

    def _observe(self, records, response):
        counts = [(record["messageId"], int(record["attributes"]["ApproximateReceiveCount"])) for record in records]
        died = not response.startswith(b'{"batchItemFailures"')
        failed = None if died else event_source_mapping.failed_ids(response, [message for message, _ in counts])
        self.evidence.deliveries.append(Delivery(time.monotonic(), counts, failed))

    # Faults

    @contextlib.contextmanager
    def fault(self, *killed, seconds=0):
        """Note when a fault began and ended, and whom it kills; it lasts for seconds after the block."""
        self.evidence.killed.update(killed)
        began = time.monotonic()
        try:
            yield
            time.sleep(seconds)
        finally:
            self.evidence.faults.append((began, time.monotonic()))

    def stop_collector(self, kill=False, task=None):
        """End the Collector (of a task), in order or not; what it says it has accepted is read just before."""
        task = task or self.tasks[0]
        accepted = self.collector_counts("receiver_accepted_spans", [task])
        task.collector.stop(*([signal.SIGKILL] if kill else []))
        self.evidence.lives.append(Life(accepted, "killed" if kill else "stopped"))

    @contextlib.contextmanager
    def environment(self, child, **variables):
        """Run the API or the function with other variables while the block runs."""
        before = child.environment
        self.restart(child, {**before, **variables})
        yield
        self.restart(child, before)

    @contextlib.contextmanager
    def proxy(self, child, variable):
        """Put a Proxy in front of what the variable of the API or the function points to, while the block runs."""
        host, port = child.environment[variable].rsplit(":", 1)
        with Proxy(int(port)) as proxy, self.environment(child, **{variable: f"{host}:{proxy.port}"}):
            yield proxy

    @staticmethod
    def restart(child, environment=None):
        """Start the API or the function anew, in another environment if one is given."""
        child.stop()
        child.environment = environment or child.environment
        child.start()

    def workers(self):
        """Return gunicorn's workers as psutil processes."""
        return psutil.Process(self.stack.api.process.pid).children()

    def runtime(self):
        """Return the function's Python as a psutil process."""
        return psutil.Process(self.stack.function.process.pid).children()[0]

    def collector(self):
        """Return the Collector as a psutil process."""
        return psutil.Process(self.stack.collector.process.pid)

    @contextlib.contextmanager
    def stopped(self, process):
        """Stop a process (SIGSTOP) while the block runs."""
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    @contextlib.contextmanager
    def ingress(self, responder, final=False):
        """Let the ingress respond as responder(context, spans) does while the block runs; see Ingress.

        final: what it does not accept is not sent again.
        """

        def noted(context, spans):
            accepted = ()
            try:
                accepted = responder(context, spans)
            finally:
                kept = {span.span_id for span in accepted}
                if final:
                    self.evidence.rejected += [span for span in spans if span.span_id not in kept]
            return accepted

        self.stack.ingress.responder = noted
        try:
            yield
        finally:
            self.stack.ingress.responder = None

    def flood(self, seconds, senders, spans=None, name=lambda: "flood", method=lambda: "GET"):
        """Send spans of the service drill for some seconds, or until so many were accepted; return the Flood."""
        sent, ends, port = flood.Flood(), time.monotonic() + seconds, self.stack.ports.collector

        def until():
            return time.monotonic() < ends and (spans is None or sent.accepted < spans)

        with ThreadPoolExecutor(senders) as pool:
            for sender in [pool.submit(flood.send, port, sent, until, name, method) for _ in range(senders)]:
                sender.result()
        self.evidence.others += sent.accepted
        return sent

    def accepted(self, request):
        """Send one serialized request of the service drill; return whether the Collector took it.

        Raises grpc.RpcError when it would not take it another time either.
        """
        try:
            with grpc.insecure_channel(f"127.0.0.1:{self.stack.ports.collector}") as channel:
                channel.unary_unary(flood.EXPORT)(request, timeout=60)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        self.evidence.others += flood.REQUEST_SPANS
        return True

    @contextlib.contextmanager
    def half_a_request(self):
        """Have a sender that is frozen in the middle of a request to the Collector while the block runs."""
        command = [sys.executable, Path(__file__).parent / "half_a_request.py"]
        with subprocess.Popen([*command, f"127.0.0.1:{self.stack.ports.collector}"], stdout=subprocess.PIPE) as sender:
            try:
                assert sender.stdout.readline() == b"begun\n"
                with self.stopped(psutil.Process(sender.pid)):
                    yield
            finally:
                sender.kill()

    # Evidence

    def collector_counts(self, name, tasks=None):
        """Return one of the Collectors' own metrics about spans, such as receiver_accepted_spans; 0 until it exists."""
        lines = []
        for task in tasks or self.tasks:
            url = f"http://127.0.0.1:{task.ports.collector_metrics}/metrics"
            with urllib.request.urlopen(url, timeout=20) as response:
                lines += response.read().decode().splitlines()
        found = [line for line in lines if re.match(rf"otelcol_{name}(_total)?({{|$| )", line)]
        return round(sum(float(line.split()[-1]) for line in found if 'data_type="metrics"' not in line))

    def log(self, child):
        """Return what a program has logged since the drill began."""
        with child.log_file.open("rb") as file:
            file.seek(self._offsets.get(child, 0))
            return file.read().decode(errors="replace")

    def drain(self):
        """Wait until every message is processed or dead-lettered."""
        poll_until(lambda: self._queued() == 0, "an empty queue", PATIENCE)

    def settle(self):
        """Wait until every message is done with and nothing more arrives; a retaining function is called again."""
        self.drain()
        poll_until(self._nothing_kept, "a complete flush", PATIENCE)
        seen = {"count": -1, "since": 0.0}

        def quiet():
            count = self.collector_counts("receiver_accepted_spans") + len(self.stack.ingress.spans())
            if count != seen["count"] or self.collector_counts("exporter_queue_size"):
                seen.update(count=count, since=time.monotonic())
            return time.monotonic() - seen["since"] > QUIET_SECONDS

        poll_until(quiet, "quiet", PATIENCE)

    def _queued(self):
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        response = self.stack.sqs.get_queue_attributes(QueueUrl=self.stack.queue_url, AttributeNames=names)
        return sum(map(int, response["Attributes"].values()))

    def _nothing_kept(self):
        keeping = [number for number, function in enumerate(self.stack.functions) if self._keeps(function)]
        for number in keeping:
            self.stack.mapping.invoke([], number)
        time.sleep(bool(keeping))  # between two invocations, not for anything
        return not keeping

    def _keeps(self, function):
        flushes = re.findall(r"Flush (?:complete|incomplete) .*", self.log(function))
        return bool(flushes) and "incomplete" in flushes[-1] and "remaining=0" not in flushes[-1]

    def account(self):
        """Settle, and return the Row; raises AssertionError with what does not reconcile after a while."""
        self.settle()
        deadline = time.monotonic() + 20
        while (row := self._account()).problems and time.monotonic() < deadline:
            time.sleep(0.5)
        self.row = row
        assert not row.problems, "\n".join(row.problems)
        return row

    def _account(self):
        evidence, ingress = self.evidence, self.stack.ingress
        evidence.function_logs = [*self._in_process_logs, *map(self.log, self.stack.functions)]
        evidence.api_log = "".join(self.log(task.api) for task in self.tasks)
        evidence.dead_letters |= self._empty(self.stack.dead_letter_queue_url)
        evidence.spans, evidence.points = ingress.spans(), ingress.points()
        ended = [life for life in evidence.lives if life.ended]
        running = [Life(self.collector_counts("receiver_accepted_spans", [task])) for task in self.tasks]
        evidence.lives = [*ended, *running]
        return account(self._fault, evidence)

    def _empty(self, queue_url):
        found = {}
        while messages := self.stack.sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                with contextlib.suppress(ValueError, AttributeError, RecursionError):
                    found[message["MessageId"]] = str(json.loads(message["Body"]).get("request_id", ""))
                found.setdefault(message["MessageId"], "")
                self.stack.sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
        return found


def reject(code, retry_after=None):
    """Return a responder for the ingress: this status code; retry_after: seconds for google.rpc.RetryInfo.

    https://opentelemetry.io/docs/specs/otlp/#otlpgrpc-throttling
    """

    def responder(context, spans):
        if retry_after is not None:
            status = status_pb2.Status(code=code.value[0], message="as the drill asked")
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay={"seconds": retry_after}))
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(code, "as the drill asked")

    return responder


UNAVAILABLE = reject(grpc.StatusCode.UNAVAILABLE)
