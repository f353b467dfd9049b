"""What could make the demo fail at its end, checked at its beginning: by the installer, and again at every start.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations  # so that an older Python gets as far as the message

import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools"
ACCOUNT = ("CORALOGIX_DOMAIN", "CORALOGIX_PRIVATE_KEY")
API_PORT = 8000
DOCKER = "with Docker it runs everywhere: make demo DOCKER=1"


class PreflightError(Exception):
    """Something is missing or in the way; the message names it and the remedy."""


def check_machine() -> None:
    """Raise PreflightError unless AWS's Lambda emulator exists for this machine and Python is new enough."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise PreflightError(f"AWS's Lambda emulator needs Linux on x86_64 or arm64; {DOCKER}")
    if sys.version_info < (3, 11):  # noqa: UP036
        raise PreflightError(
            f"Python 3.11 or newer is needed and this is {platform.python_version()}; "
            f"if there is another: make demo PYTHON=python3.12; {DOCKER}"
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise PreflightError(
            "this Python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"
        ) from None


def check_disk(megabytes: int) -> None:
    """Raise PreflightError unless that much is free where the repository is."""
    free = shutil.disk_usage(ROOT).free // 1_000_000
    if free < megabytes:
        raise PreflightError(f"{megabytes} MB of disk are needed in {ROOT} and {free} MB are free")


def api_port(environment: Mapping[str, str], default: int = API_PORT) -> int:
    """Return the API's port, PORT or the default; raises PreflightError when it is none or in use."""
    text = environment.get("PORT") or str(default)
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise PreflightError(f"PORT={text} is no port: a number up to 65535 is")
    if not is_free(int(text)):
        raise PreflightError(
            f"port {text} (api) is in use: stop what listens there, or choose another: PORT=8080 make demo"
        )
    return int(text)


def is_free(port: int, address: str = "127.0.0.1") -> bool:
    """Return whether nothing listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def account(environment: Mapping[str, str]) -> dict[str, str] | None:
    """Return the variables of a Coralogix account, or None for neither; raises PreflightError when one is missing."""
    found = {name: environment[name] for name in ACCOUNT if environment.get(name)}
    if len(found) == 1:
        (there,), (missing,) = found, set(ACCOUNT) - set(found)
        raise PreflightError(
            f"{there} is set and {missing} is not: set both to send to your Coralogix, or none of them"
        )
    return found or None


def manifest_modules() -> set[str]:
    """Return the modules that otel/builder.yaml names, as "path version"."""
    return set(re.findall(r"gomod: (\S+ \S+)", (ROOT / "otel/builder.yaml").read_text()))


def collector_modules(program: str | Path) -> set[str]:
    """Return the modules a Collector says it was built from, as "path version"; none when it is no Collector."""
    command = [str(program), "components"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return set()
    return set(re.findall(r"module: (\S+ \S+)", done.stdout.decode(errors="replace")))


def check_own_collector(program: str) -> None:
    """Raise PreflightError when program, out of OTELCOL, is no Collector with the components of otel/builder.yaml."""
    if not shutil.which(program):
        raise PreflightError(f"OTELCOL={program} is no program; without OTELCOL the Collector is built here")
    there = {module.split()[0] for module in collector_modules(program)}
    if missing := [module for module in sorted(manifest_modules()) if module.split()[0] not in there]:
        raise PreflightError(
            f"OTELCOL={program} is no Collector with the components of otel/builder.yaml; it lacks {missing[0]}"
        )
