"""generate-sustained-traffic.sh against the running API, and against nobody."""

import signal
import subprocess
import time

import pytest

import shipped
from stack import free_port

SCRIPT = shipped.ROOT / "generate-sustained-traffic.sh"


def run(*arguments):
    """Run the script to its end."""
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_it_counts_what_was_accepted(stack):
    done = run(f"127.0.0.1:{stack.ports.api}", "2", "0.3")
    words = done.stdout.replace(",", "").split()
    sent, accepted = int(words[1]), int(words[3])
    assert (done.returncode, words[0::2]) == (0, ["sent", "accepted", "failed"])
    assert sent == accepted >= 2


def test_it_fails_with_the_last_error_when_nothing_was_accepted():
    done = run(f"127.0.0.1:{free_port()}", "1", "0.3")
    assert done.returncode == 1
    assert "accepted 0" in done.stdout
    assert "last error: curl: (7)" in done.stdout


def test_ctrl_c_ends_it_with_the_summary(stack):
    script = subprocess.Popen([SCRIPT, f"127.0.0.1:{stack.ports.api}", "600", "0.1"], stdout=subprocess.PIPE, text=True)
    time.sleep(1.5)  # let it send some; how many does not matter
    script.send_signal(signal.SIGINT)
    out, _ = script.communicate(timeout=30)
    assert script.returncode == 0
    assert out.startswith("sent ")
    assert ", failed 0" in out


@pytest.mark.parametrize(
    "arguments", [(), ("",), ("--help",), ("host", "x"), ("host", "1", "-1"), ("a", "1", "1", "x")]
)
def test_wrong_usage_exits_2_with_the_usage(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert "Usage: generate-sustained-traffic.sh HOST [DURATION] [INTERVAL] [FAIL_EVERY]" in done.stderr
