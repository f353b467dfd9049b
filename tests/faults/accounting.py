"""Reconciles messages and spans after a drill: from what processes, queue and ingress say to a row with the problems.

Nothing here talks to anything: account() gets the evidence and computes. What it is to find is in test_accounting.py.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

ONBOARDED = re.compile(r"onboarded customer_id=\S+ request_id=(\S+) message_id=(\S+)")
FLUSH = re.compile(r"Flush complete accepted=(\d+)|Flush incomplete accepted=(\d+) remaining=(\d+) dropped=(\S+)")
NEW_RUNTIME, DIED_INVOCATION = "INIT START(", re.compile(r"Invoke failed .*InvokeID=(\S+)")
RECEIVE_COUNT = "aws.sqs.receive_count"
API_EXPORT_FAILED = re.compile(r"Failed to export|Transient error|Queue full|Exception while exporting")
OVERFLOW = ("otel.metric.overflow", "", "")  # the series of those beyond aggregation_cardinality_limit
GOLDEN = {"SERVER", "PRODUCER", "CLIENT"}  # what the API makes of an accepted request
# An API span is sent within the second of OTEL_BSP_SCHEDULE_DELAY and the two of OTEL_EXPORTER_OTLP_TIMEOUT.
WINDOW_SECONDS = 5


class Response(NamedTuple):
    """What one request got: status is None when no response came; at is time.monotonic() when it came."""

    status: int | None
    at: float
    seconds: float
    request_id: str = ""
    message_id: str = ""
    trace_id: str = ""


class Delivery(NamedTuple):
    """One invocation: its (message id, receive count), and those it reported as failed; None when it died."""

    at: float
    records: list
    failed: set | None


class Life(NamedTuple):
    """The spans one Collector process has accepted; ended is "", "stopped" or "killed"."""

    accepted: int
    ended: str = ""


@dataclass
class Evidence:
    """Everything a drill has collected; times are time.monotonic()."""

    responses: list = field(default_factory=list)
    sent: dict = field(default_factory=dict)  # {message id: request id or ""} that the drill put on the queue itself
    deliveries: list = field(default_factory=list)
    dead_letters: dict = field(default_factory=dict)  # {message id: request id or ""}
    function_logs: list = field(default_factory=list)  # one of each sandbox
    api_log: str = ""
    spans: list = field(default_factory=list)  # accepted by the ingress, in order, repeats included
    rejected: list = field(default_factory=list)  # shown to the ingress and not accepted
    points: list = field(default_factory=list)
    lives: list = field(default_factory=list)
    faults: list = field(default_factory=list)  # (begin, end)
    killed: set = field(default_factory=set)  # names of processes that did not end in order
    others: int = 0  # spans of the drill's own, with service.name drill, that the Collector has accepted
    past_collector: frozenset = frozenset()  # services that send straight to the ingress
    repeats: bool = False  # the drill delivers records twice
    may_arrive_twice: bool = False  # a retry was ambiguous


@dataclass
class Row:
    """One line of the table; problems is empty when everything reconciles."""

    fault: str
    accepted: int
    ambiguous: int
    processed: int  # messages
    requests: int  # that those messages are of; a send whose response was lost makes two messages of one
    dead_lettered: int
    ended: int
    received: int
    twice: int
    dropped: Counter
    uncounted: int
    problems: list

    @property
    def lost(self):
        """How many spans have ended and did not arrive."""
        return self.ended - self.received


def account(fault, evidence):
    """Return the Row of a drill."""
    problems = []
    both = _Reconciliation(evidence, problems)
    both.messages()
    both.reports()
    ended, received, dropped = both.spans()
    uncounted = both.metrics()
    both.traces(sum(dropped.values()))
    return Row(
        fault=fault,
        accepted=len(both.accepted) + len(evidence.sent),
        ambiguous=both.ambiguous,
        processed=len({message for _, message in both.lines}),
        requests=len({request for request, _ in both.lines}),
        dead_lettered=len(evidence.dead_letters),
        ended=ended,
        received=received,
        twice=len(evidence.spans) - len(both.unique),
        dropped=dropped,
        uncounted=uncounted,
        problems=problems,
    )


class _Reconciliation:
    def __init__(self, evidence, problems):
        self.evidence, self.problems = evidence, problems
        self.accepted = [response for response in evidence.responses if response.status == 202]
        # A 503 may be for a message that SQS has taken, too: its response may have been what was lost.
        self.ambiguous = sum(response.status in (None, 500, 502, 503) for response in evidence.responses)
        self.function_log = "".join(evidence.function_logs)
        self.lines = ONBOARDED.findall(self.function_log)
        self.unique = {span.span_id: span for span in evidence.spans}

    def check(self, truth, problem):
        if not truth:
            self.problems.append(problem)

    def messages(self):
        """M1: accepted <= processed + dead-lettered (+ visible: none by now) <= accepted + ambiguous, in requests."""
        evidence = self.evidence
        located = {message: request for request, message in self.lines} | evidence.dead_letters
        wanted = {response.message_id: response.request_id for response in self.accepted} | evidence.sent
        missing = set(wanted) - set(located)
        self.check(not missing, f"M1: {len(missing)} accepted messages are nowhere")
        known = set(wanted.values())
        extra = {request or message for message, request in located.items() if message not in wanted} - known
        self.check(len(extra) <= self.ambiguous, f"M1: {len(extra)} messages nobody sent, {self.ambiguous} ambiguous")

    def reports(self):
        """M2: a message reported as successful was onboarded; twice only when redelivered, and its spans say so."""
        deliveries, silent, lines = Counter(), set(), Counter(message for _, message in self.lines)
        for delivery in self.evidence.deliveries:
            deliveries.update(delivery.records)
            if delivery.failed is not None:
                silent |= {message for message, _ in delivery.records} - delivery.failed - lines.keys()
        self.check(not silent, f"M2: {len(silent)} messages were reported as successful and not onboarded")
        processed = [span.attributes for span in self.unique.values() if span.name == "sqs.process"]
        seen = Counter((span["messaging.message.id"], span.get(RECEIVE_COUNT)) for span in processed)
        self.check(seen <= deliveries, f"M2: spans of deliveries that never were: {list(seen - deliveries)[:3]}")
        if not self.evidence.repeats:
            first = [key for key, times in deliveries.items() if key[1] == 1 and times > 1]
            self.check(not first, f"M2: {len(first)} messages were delivered twice for the first time")
            twice = [m for m, n in lines.items() if n > 1 and n > sum(message == m for message, _ in deliveries)]
            self.check(not twice, f"M2: {len(twice)} messages were onboarded again without a redelivery")

    def spans(self):
        """T1: every span that ended was received, or is counted under a reason; return ended, received, {reason: n}."""
        function_ended, function_received, dropped = self._function_spans()
        api_ended, api_received, api_lost = self._api_spans()
        rejected = {span.span_id for span in self.evidence.rejected if span.service not in self.evidence.past_collector}
        dropped["rejected by ingress"] += len(rejected - self.unique.keys())
        others = sum(span.service == "drill" for span in self.unique.values())
        ended = function_ended + api_ended + self.evidence.others
        received = function_received + api_received + others
        unexplained = ended - received - sum(dropped.values())
        dropped += self._unspoken_of(max(unexplained, 0), api_lost)
        self.check(unexplained >= 0, f"T1: {-unexplained} spans were counted as dropped and received")
        twice = len(self.evidence.spans) - len(self.unique)
        self.check(not twice or self.evidence.may_arrive_twice, f"T1: {twice} spans arrived twice")
        return ended, received, +dropped

    def _function_spans(self):
        """Return (ended, received, {reason: dropped}) of the function.

        An invocation that died counts with the records it got to, though the span of the last may not have ended.
        """
        completed = [delivery for delivery in self.evidence.deliveries if delivery.failed is not None]
        ended = sum(len(delivery.records) + 1 for delivery in completed)
        died = DIED_INVOCATION.findall(self.function_log)
        own = [span for span in self.unique.values() if span.service == "onboarding-lambda"]
        received = sum(span.attributes["faas.invocation_id"] not in died for span in own)
        accepted, dropped = 0, Counter()
        logs = [(log, runtimes[-1] is log) for runtimes in self._runtimes() for log in runtimes]
        for log, is_newest in logs:
            remaining = 0
            for complete, incomplete, left, reasons in FLUSH.findall(log):
                accepted += int(complete or incomplete)
                remaining = int(left or 0)
                for reason in reasons.split(",") if reasons not in ("", "none") else ():
                    dropped[reason.split(":")[0]] += int(reason.split(":")[1])
            dropped["still kept" if is_newest else "died with process"] += remaining
        self.check(not dropped["still kept"], f"T1: the function still keeps {dropped['still kept']} spans")
        counted = accepted + sum(dropped.values())
        self.check(counted == ended, f"T1: the function's flushes speak of {counted} spans, {ended} have ended")
        begun = sum(len(set(re.findall(rf"{one}\t.* message_id=(\S+)", self.function_log))) for one in died)
        arrived = len(own) - received
        dropped["died with process"] += max(begun - arrived, 0)
        return ended + max(begun, arrived), len(own), dropped

    def _runtimes(self):
        """Return the logs of each sandbox's runtimes, one after the other."""
        return [log.split(NEW_RUNTIME) for log in self.evidence.function_logs]

    def _api_spans(self):
        """Return (expected, received, lost): three spans for every accepted request; lost: a response for each lost."""
        kinds = {}
        for span in self.unique.values():
            if span.service == "onboarding-api":
                kinds.setdefault(span.trace_id, []).append(span.kind)
        lost = []
        for response in self.accepted:
            found = kinds.get(response.trace_id, [])
            self.check(len(found) == len(set(found)) and GOLDEN.issuperset(found), f"T1: a request has spans {found}")
            lost += [response] * (3 - len(found))
        return 3 * len(self.accepted), 3 * len(self.accepted) - len(lost), lost

    def _unspoken_of(self, count, api_lost):
        """Return {reason: n} for spans that no line counts: what a killed process held, what the API could not send."""
        outside = sum(not self._during_a_fault(response.at) for response in api_lost)
        self.check(not outside, f"T1: {outside} spans of the API are missing from outside the fault")
        reasons, killed = Counter(), self.evidence.killed
        if "otel-collector" in killed:
            # What it accepted after it was last asked shows only where nothing else explains it.
            of_the_function = count - len(api_lost)
            unseen = of_the_function if of_the_function <= self._held() else 0
            reasons["died with process"] = max(min(count, self._never_left_the_collector()), unseen)
        rest = count - reasons.total()
        if rest and rest <= len(api_lost) and API_EXPORT_FAILED.search(self.evidence.api_log):
            reasons["api exporter"] = rest
        elif rest and rest <= len(api_lost) and "onboarding-api" in killed:
            reasons["died with process"] += rest
        elif rest:
            reasons["unexplained"] = rest
            self.problems.append(f"T1: {rest} spans are missing without a reason")
        return reasons

    def _never_left_the_collector(self):
        """Return how many spans a Collector accepted, as far as it was asked, and never got rid of."""
        past = self.evidence.past_collector
        gone = sum(span.service not in past for span in (*self.evidence.spans, *self.evidence.rejected))
        return max(sum(life.accepted for life in self.evidence.lives) - gone, 0)

    def _held(self):
        """Return how many spans of the function are so close to a fault that a process may have held them."""
        return sum(len(d.records) + 1 for d in self.evidence.deliveries if self._during_a_fault(d.at))

    def _during_a_fault(self, at):
        return any(begin - WINDOW_SECONDS <= at <= end + WINDOW_SECONDS for begin, end in self.evidence.faults)

    def metrics(self):
        """T2: calls = spans the Collector received, histogram count = calls; return how many spans are not in calls."""
        calls, durations = _series(self.evidence.points, ""), _series(self.evidence.points, "", "duration")
        compact = _series(self.evidence.points, "compact.")
        self.check(calls == durations, f"T2: calls and durations differ: {_difference(calls, durations)}")
        uncounted = sum(life.accepted for life in self.evidence.lives) - calls.total()
        a_life_ended = any(life.ended for life in self.evidence.lives)
        late = 3 * sum(self._during_a_fault(response.at) for response in self.evidence.responses) + self._held()
        late = late if a_life_ended else 0  # what came after the last flush of RED, or after it was last asked
        self.check(uncounted >= -late, f"T2: {-uncounted} calls more than spans")
        self.check(uncounted <= late, f"T2: {uncounted} spans are not in calls")
        self.check(calls.total() == compact.total() or a_life_ended, "T2: the two sets of metrics differ")
        offered = self.unique | {span.span_id: span for span in self.evidence.rejected}
        names = Counter(_labels(span) for span in offered.values() if span.service not in self.evidence.past_collector)
        if not a_life_ended and calls.total() == names.total():
            overflow = sum(number for labels, number in calls.items() if labels[1:] == OVERFLOW)
            named = Counter({labels: number for labels, number in calls.items() if labels[1:] != OVERFLOW})
            self.check((names - named).total() == overflow, f"T2: spans and calls differ: {_difference(names, calls)}")
        return uncounted

    def traces(self, lost):
        """T3: every processed message has SERVER -> PRODUCER -> CONSUMER in one trace, but for the spans lost."""
        traces, spans = {response.message_id: response.trace_id for response in self.accepted}, self.unique
        onboarded, complete = {message for _, message in self.lines} & traces.keys(), set()
        for span in spans.values():
            message = span.attributes.get("messaging.message.id")
            if span.name != "sqs.process" or message not in onboarded:
                continue
            self.check(span.trace_id == traces[message], f"T3: message {message} was processed in another trace")
            producer = spans.get(span.parent_span_id)
            server = producer and spans.get(producer.parent_span_id)
            if server:
                kinds = (server.kind, producer.kind, span.kind)
                self.check(kinds == ("SERVER", "PRODUCER", "CONSUMER"), f"T3: the trace of {message} is {kinds}")
                complete.add(message)
        incomplete = len(onboarded - complete)
        self.check(incomplete <= lost, f"T3: {incomplete} messages without their whole trace, {lost} spans lost")


def _labels(span):
    return (span.service, span.name, span.kind, span.status)


def _series(points, prefix, metric="calls"):
    """Return {(service, name, kind, status): number} of a metric, over all Collectors and HTTP dimensions."""
    numbers = Counter()
    for point in points:
        if point.name == prefix + metric:
            labels = point.resource | point.attributes
            kind, status = labels.get("span.kind", ""), labels.get("status.code", "")
            names = (labels.get("span.name", ""), kind.removeprefix("SPAN_KIND_"), status.removeprefix("STATUS_CODE_"))
            overflow = labels.get("otel.metric.overflow")
            key = (labels["service.name"], *(OVERFLOW if overflow else names))
            numbers[key] += point.value.count if metric == "duration" else round(point.value)
    return numbers


def _difference(left, right):
    return {key: (left[key], right[key]) for key in left | right if left[key] != right[key]}
