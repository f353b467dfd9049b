"""The installer of make demo and make test, in a fresh clone, with stand-ins for what it calls."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

import install
import preflight
import shipped
import steps
from stack import free_port, poll_until

FILES = ["requirements.lock", "infrastructure/local/requirements.txt", "otel/builder.yaml", "otel/sanitizer/go.mod"]
FILES += [
    f"infrastructure/local/{name}"
    for name in ("install.py", "preflight.py", "steps.py", "viewer/go.mod", "viewer/go.sum")
]
# Says that it is new enough, and then does what the test wants.
GO = '#!/bin/sh\ncase "$1 $2" in "env GOVERSION") echo go9.9.9 ;; env*) echo elsewhere ;; *) {deed} ;; esac\n'


def script(path, text):
    """Write a program; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def clone(tmp_path):
    """A fresh clone: start(target, **variables) starts its installer, run(...) returns (status, output)."""
    root = tmp_path / "clone"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shipped.ROOT / name, root / name)
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    started = []

    def start(target, **variables):
        command = [sys.executable, root / "infrastructure/local/install.py", target]
        environment = {**inherited, "PORT": str(free_port()), **{name: str(value) for name, value in variables.items()}}
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        return started[-1]

    def run(target, **variables):
        process = start(target, **variables)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    yield SimpleNamespace(root=root, tools=root / ".tools", start=start, run=run)
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def go(tmp_path):
    """go(deed) returns what the environment needs so that a program of ours is found as go."""

    def make(deed):
        script(tmp_path / "bin/go", GO.format(deed=deed))
        return {"PATH": f"{tmp_path / 'bin'}:/usr/local/bin:/usr/bin:/bin", "CC": "sh", "CXX": "sh"}

    return make


def collector(path, modules):
    """Write a program that says as a Collector does which modules it has been built from."""
    return script(path, "#!/bin/sh\n" + "".join(f"echo '    module: {module}'\n" for module in modules))


@pytest.fixture
def complete(clone):
    """The clone, with everything in place that make demo needs."""
    for name in ("made", "installed", "bin/python"):
        script(clone.root / ".venv" / name, "")
    script(clone.tools / "aws-lambda-rie", "")
    collector(clone.tools / "otelcol", preflight.manifest_modules())
    return clone


def test_a_port_in_use_is_named_with_the_remedy_before_anything_is_installed(clone):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, output = clone.run("demo", PORT=port)
    assert status == 1
    assert output.startswith(f"port {port} (api) is in use")
    assert "PORT=8080 make demo" in output
    assert not (clone.root / ".venv").exists()
    assert not clone.tools.exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PORT": "http"}, "PORT=http is no port"),
        ({"CORALOGIX_DOMAIN": "us2.coralogix.com"}, "CORALOGIX_PRIVATE_KEY is not: set both"),
        ({"OTELCOL": "/no/such/program"}, "OTELCOL=/no/such/program is no program"),
        ({"OTELCOL": "/bin/true"}, "OTELCOL=/bin/true is no Collector with the components of otel/builder.yaml"),
    ],
)
def test_a_wrong_variable_is_named_before_anything_is_installed(clone, variables, message):
    status, output = clone.run("demo", **variables)
    assert (status, message in output) == (1, True), output
    assert not clone.tools.exists()


def test_a_python_without_venv_is_told_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(preflight.PreflightError, match="apt-get install python3-venv"):
        preflight.check_machine()


def test_a_python_that_is_too_old_is_told_so(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    with pytest.raises(preflight.PreflightError, match=r"Python 3\.11 or newer is needed.*make demo DOCKER=1"):
        preflight.check_machine()


def test_a_machine_without_lambda_emulator_is_led_to_docker(monkeypatch):
    monkeypatch.setattr(preflight.platform, "system", lambda: "Darwin")
    with pytest.raises(preflight.PreflightError, match="make demo DOCKER=1"):
        preflight.check_machine()


def test_too_little_disk_is_named(monkeypatch):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=99_000_000))
    with pytest.raises(preflight.PreflightError, match=r"100 MB of disk are needed in .* and 99 MB are free"):
        preflight.check_disk(100)


def test_what_is_there_is_left_alone_and_nothing_is_said(complete):
    assert complete.run("demo") == (0, "")


def test_the_demo_needs_fewer_packages_than_the_tests(complete, monkeypatch):
    monkeypatch.setattr(install, "VENV", complete.root / ".venv")
    (complete.root / ".venv/installed").rename(complete.root / ".venv/demo")
    assert complete.run("demo") == (0, "")
    assert [step.title for step in install.missing_steps("python")] == ["Python packages"]


def test_tools_copied_into_a_fresh_clone_are_not_built_again(complete):
    manifest = complete.root / "otel/builder.yaml"
    os.utime(manifest, (2e9, 2e9))  # a clone's files are newer than what was built before
    assert complete.run("test") == (0, "")


def test_a_collector_that_lacks_a_component_is_built_again(complete, go):
    collector(complete.tools / "otelcol", sorted(preflight.manifest_modules())[1:])
    status, output = complete.run("test", **go("echo go: no such thing >&2; exit 1"))
    assert status == 1
    assert "Collector: building the Builder failed: go: no such thing (all of it: " in output


def test_without_a_network_the_message_says_network(complete, go):
    (complete.tools / "otelcol").unlink()
    deed = "echo 'dial tcp: lookup proxy.example: no such host' >&2; echo 'go: last line' >&2; exit 1"
    status, output = complete.run("test", **go(deed))
    assert status == 1
    assert "the network can't be reached: dial tcp: lookup proxy.example: no such host" in output


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: Retrying after connection broken by 'NewConnectionError(...: Failed to establish a new connection')",
        "  Caused by: dns error: failed to lookup address information: Temporary failure in name resolution",
        "error: error sending request for url (https://index.example/simple/rich/)",
        'go: module.example@v1.0.0: Get "https://proxy.example": dial tcp 127.0.0.1:9: connect: connection refused',
    ],
)
def test_the_networks_failures_are_recognised(line):
    output = f"Collecting rich\n{line}\nERROR: No matching distribution found for rich\n"
    assert steps.reason(output) == f"the network can't be reached: {line.strip()}"


def test_any_other_failure_is_the_last_line():
    assert steps.reason("compiling\nmain.go:1: syntax error\n\n") == "main.go:1: syntax error"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_everything_and_is_no_traceback(complete, go, tmp_path, number):
    (complete.tools / "otelcol").unlink()
    process = complete.start("test", **go(f"touch {tmp_path}/building; sleep 987654 & wait"))
    poll_until((tmp_path / "building").exists, "the build")
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert output.endswith("Interrupted; the next call goes on from here.\n")
    assert "Traceback" not in output
    assert not [p for p in psutil.process_iter(["cmdline"]) if "987654" in (p.info["cmdline"] or [])]


def test_progress_is_reported_while_it_lasts(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(steps, "WORK", tmp_path)
    monkeypatch.setattr(steps, "PLAIN_EVERY", 0.1)

    def work(step):
        command = ["sh", "-c", "echo one; echo two; while [ ! -e seen ]; do sleep 0.1; done"]
        step.do("compiling", command, install.compiled(7), cwd=tmp_path)

    def report(step):
        text = original(step)
        if "2 of 7" in text:
            (tmp_path / "seen").touch()
        return text

    original = steps.Step.report
    monkeypatch.setattr(steps.Step, "report", report)
    steps.run([steps.Step("Collector", work)])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith("compiling 2 of 7 packages") for line in lines)
    assert lines[-1].endswith("done")


def test_the_viewer_is_not_built_without_a_compiler(clone):
    status, output = clone.run("viewer", CC="no-such-cc")
    assert status == 1
    assert output == "there is no no-such-cc, which it is built with; on Debian and Ubuntu: apt-get install gcc g++\n"
    assert not clone.tools.exists()
