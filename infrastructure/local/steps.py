"""Steps of an installation: side by side, with moving progress, stopped all together."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

from preflight import TOOLS, PreflightError

WORK = TOOLS / "install"  # logs, and the caches until nothing needs them any more
PLAIN_EVERY = 10  # seconds between two reports where there is no terminal
NO_NETWORK = re.compile(
    r"name resolution|name or service not known|no such host|no route to host|network is unreachable|connection refused"
    r"|dial tcp|dns error|error sending request|NewConnectionError|ConnectTimeout|timed out|i/o timeout",
    re.IGNORECASE,
)


class Stopped(Exception):
    """Another step has failed, or Ctrl-C was pressed."""


class Step(threading.Thread):
    """One thing to install, in a thread; state says how far it is, error why it failed."""

    running: ClassVar[set[subprocess.Popen[bytes]]] = set()
    stop = threading.Event()
    starting = threading.Lock()  # so that nothing starts after end_all() has looked

    def __init__(self, title: str, work: Callable[[Step], None]):
        super().__init__(name=title)
        self.title, self._work = title, work
        self.error: PreflightError | None = None
        self._log = WORK / f"{title.lower().replace(' ', '-')}.log"
        self._began = time.monotonic()
        self.ended: float | None = None
        self._count: Callable[[], str] = lambda: ""
        self._doing = ""

    def run(self) -> None:
        """Do the work; what goes wrong is in error."""
        self._began = time.monotonic()
        try:
            self._work(self)
            self._doing, self._count = "done", lambda: ""
        except PreflightError as error:
            self.error, self._doing = error, "failed"
        except OSError as error:
            self.error, self._doing = PreflightError(f"{self.title}: {error}"), "failed"
        except Stopped:
            self._doing = "stopped"
        self.ended = time.monotonic()

    def report(self) -> str:
        """Return title, minutes and seconds, and what it is doing."""
        seconds = int((self.ended or time.monotonic()) - self._began)
        return f"  {self.title:<20} {seconds // 60}:{seconds % 60:02}  {self._doing} {self._count()}".rstrip()

    def do(
        self,
        doing: str,
        command: list[Any],
        count: Callable[[str], str] | None = None,
        optional: bool = False,
        **options: Any,
    ) -> str:
        """Run a command with its output in the log and return that; raises PreflightError when it fails.

        doing: words for the progress; count: how far it is, made of its output so far; optional: failing is no error.
        """
        self._doing = doing
        with self._log.open("ab") as log:
            begin = log.tell()

            def output() -> str:
                with self._log.open("rb") as reading:
                    reading.seek(begin)
                    return reading.read().decode(errors="replace")

            self._count = lambda: count(output()) if count else ""
            words = [str(word) for word in command]
            # A session of its own: Ctrl-C reaches this program alone, which then ends the whole group.
            with self.starting:
                if self.stop.is_set():
                    raise Stopped
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **options
                )
                self.running.add(process)
            status = process.wait()
            self.running.discard(process)
        if self.stop.is_set():
            raise Stopped
        if status and not optional:
            raise PreflightError(f"{self.title}: {doing} failed: {reason(output())} (all of it: {self._log})")
        return output()

    @classmethod
    def end_all(cls) -> None:
        """Stop every step and whatever it has started."""
        with cls.starting:
            cls.stop.set()
        for process in list(cls.running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


def reason(output: str) -> str:
    """Return why a command failed: its first line about the network, or else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it said nothing"]
    network = next((line for line in lines if NO_NETWORK.search(line)), None)
    return f"the network can't be reached: {network[:300]}" if network else lines[-1][:300]


def run(steps: list[Step]) -> None:
    """Run steps side by side and show how far they are; raises the first PreflightError of theirs."""
    for step in steps:
        step.start()
    terminal, next_report = sys.stdout.isatty(), time.monotonic() + PLAIN_EVERY
    drawn = 0
    reported: list[Step] = []  # those that have ended
    while True:
        alive = any(step.is_alive() for step in steps)
        if terminal:
            width = shutil.get_terminal_size().columns - 1
            up = f"\x1b[{drawn}A" if drawn else ""
            print(up + "".join(f"\r{step.report()[:width]}\x1b[K\n" for step in steps), end="", flush=True)
            drawn = len(steps)
        elif not alive or time.monotonic() >= next_report:
            next_report += PLAIN_EVERY
            news = [step for step in steps if step not in reported]
            print("\n".join(step.report() for step in news), flush=True)
            reported += [step for step in news if step.ended]
        if failed := [step.error for step in steps if step.error]:
            raise failed[0]
        if not alive:
            return
        for step in steps:
            step.join(0.3 / len(steps))
