"""Processes of the stack: started, awaited, stopped."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

Result = TypeVar("Result")
START_SECONDS = STOP_SECONDS = 30.0


class StackError(Exception):
    """Something of the stack can't start or has died; the message names it."""


def poll_until(check: Callable[[], Result], what: str, timeout: float = 30.0) -> Result:
    """Return check()'s first true value; raises StackError with what was waited for after timeout seconds."""
    deadline = time.monotonic() + timeout
    while not (result := check()):
        if time.monotonic() > deadline:
            raise StackError(f"waited {timeout:g} seconds in vain for {what}")
        time.sleep(0.05)
    return result


class Child:
    """A process with a log file, ready when url responds with status; a context manager.

    It sees PATH (with run_dir and this Python's programs first), HOME (run_dir) and the environment it is given,
    nothing else: the developer's own OTEL_* and AWS_* variables would change what is shown. environment is read at
    every start.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[object],
        url: str,
        environment: dict[str, str],
        run_dir: Path,
        cwd: Path | None = None,
        status: int = 200,
    ) -> None:
        self.name = name
        self.environment = environment
        self.log_file = run_dir / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.command = [str(word) for word in command]
        self._url, self._status = url, status
        self._run_dir, self._cwd = run_dir, cwd

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start the process and wait until it responds; raises StackError with its last words."""
        directories = [str(self._run_dir), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        try:
            with self.log_file.open("ab") as log:
                self.process = subprocess.Popen(
                    self.command,
                    cwd=self._cwd,
                    env={"PATH": os.pathsep.join(directories), "HOME": str(self._run_dir), **self.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C reaches only the demo, and stop() all that the process has started
                )
            poll_until(lambda: self._responds() or not self.running(), self.name, START_SECONDS)
        except (OSError, StackError):
            self.stop()
        if not self.running():
            raise StackError(f"{self.name} did not start. {self.last_words()}")
        return self

    def running(self) -> bool:
        """Return whether the process lives."""
        return self.process is not None and self.process.poll() is None

    def stop(self, how: signal.Signals = signal.SIGTERM) -> Self:
        """Stop the process and whatever it has started; how it exits does not matter."""
        if self.process:
            _signal_group(self.process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
            _signal_group(self.process.pid, signal.SIGKILL)
            self.process.wait()
        return self

    def last_words(self) -> str:
        """Return a message with the last line of the log."""
        lines = self.log_file.read_text(errors="replace").split("\n")
        return f"Its last words in {self.log_file}: {next((line for line in reversed(lines) if line.strip()), 'none')}"

    def _responds(self) -> bool:
        address = urllib.parse.urlsplit(self._url)
        connection = http.client.HTTPConnection(address.netloc, timeout=5)
        try:
            connection.request("GET", address.path or "/")
            return connection.getresponse().status == self._status
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _signal_group(pid: int, number: signal.Signals) -> None:
    """Signal a process that leads a group, and the group; none of them may be left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
