"""One resolution for everything, what each image has of it, and which instrumentations it brings."""

import ast
import contextlib
import fnmatch
import functools
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib

import pytest

import shipped

PROGRAMS = {"onboarding-api": {"app.py", "gunicorn.conf.py"}, "onboarding-lambda": {"app.py"}}


def requirements(path):
    """Return {name: version} of a file with pinned and hashed requirements."""
    entries = re.findall(r"^(\S+)==(\S+)([^\n]*\\\n(?: .*\n?)+)", (shipped.ROOT / path).read_text(), re.MULTILINE)
    assert all("--hash=sha256:" in rest for _, _, rest in entries)
    return {name: version for name, version, _ in entries}


LOCK = requirements("requirements.lock")
API, FUNCTION = requirements("onboarding-api/requirements.txt"), requirements("onboarding-lambda/requirements.txt")
DEMO = requirements("infrastructure/local/requirements.txt")
GROUPS = tomllib.loads((shipped.ROOT / "pyproject.toml").read_text())["dependency-groups"]
# The group that declares what the Python files of a folder import.
GROUP_OF = {"onboarding-api/": "api", "onboarding-lambda/": "lambda", "infrastructure/local/": "demo", "tests/": "dev"}
# What the bench compares with has virtual environments of its own.
OF_PEERS = ("tests/bench/functions/", "tests/bench/programs/")


@pytest.mark.parametrize("image", [API, FUNCTION, DEMO], ids=["api", "function", "demo"])
def test_an_image_has_the_versions_that_are_tested(image):
    assert image
    assert image.items() <= LOCK.items()


def test_this_environment_has_the_locked_versions():
    installed = {name: importlib.metadata.version(name) for name in API | FUNCTION}
    assert installed == API | FUNCTION


def test_exactly_flask_botocore_and_requests_are_instrumented():
    instrumentors = {
        entry_point.name
        for name in API
        for entry_point in importlib.metadata.distribution(name).entry_points
        if entry_point.group == "opentelemetry_instrumentor"
    }
    assert instrumentors - {"aiobotocore"} == {"flask", "botocore", "requests"}  # aiobotocore itself is not there
    assert "aiobotocore" not in API


def test_the_image_of_the_function_has_no_aws_sdk():
    assert not {"boto3", "botocore"} & set(FUNCTION)


def copied(directory):
    """Return the files an image's Dockerfile copies from the build context, as paths from the root."""
    lines = re.findall(
        r"^COPY (?!--from)(.+) \S+$", (shipped.ROOT / directory / "Dockerfile").read_text(), re.MULTILINE
    )
    return {path for line in lines for path in line.split()}


def imported(path):
    """Return the top-level names a file imports."""
    tree = ast.parse(path.read_text())
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return {name.split(".")[0] for name in plain | {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}}


def own_modules(directory):
    """Return the files a program consists of: those that start, and what they import from beside them."""
    files, new = set(), PROGRAMS[directory]
    while new:
        files |= new
        names = {name for file in new for name in imported(shipped.ROOT / directory / file)}
        new = {f"{name}.py" for name in names if (shipped.ROOT / directory / f"{name}.py").exists()} - files
    return files


@pytest.mark.parametrize("directory", PROGRAMS)
def test_an_image_copies_every_module_its_program_imports_and_nothing_else(directory):
    expected = {f"{directory}/{file}" for file in own_modules(directory) | {"requirements.txt"}}
    assert copied(directory) == expected


@pytest.mark.parametrize(("directory", "image"), [("onboarding-api", API), ("onboarding-lambda", FUNCTION)])
def test_an_image_has_every_package_its_program_imports(directory, image):
    provided = importlib.metadata.packages_distributions()
    names = {name for file in own_modules(directory) for name in imported(shipped.ROOT / directory / file)}
    outside = names - set(sys.stdlib_module_names) - {file.removesuffix(".py") for file in own_modules(directory)}
    assert [name for name in outside if not {d.lower() for d in provided[name]} & set(image)] == []


def declared(group):
    """Return the names a dependency group declares, or one that it includes."""
    own = {re.match(r"[\w-]+", entry)[0] for entry in GROUPS[group] if isinstance(entry, str)}
    return own.union(*(declared(entry["include-group"]) for entry in GROUPS[group] if isinstance(entry, dict)))


installed_packages = functools.cache(importlib.metadata.packages_distributions)


def installed_modules(path):
    """Yield the specs of the installed modules that a file imports, or imports something from."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.split(".")[0] in installed_packages():
                with contextlib.suppress(ModuleNotFoundError):  # a class or a function
                    yield importlib.util.find_spec(name)


@functools.cache
def files_of(distribution):
    """Return the files of an installed distribution."""
    return {str(file.locate()) for file in importlib.metadata.files(distribution)}


def distribution_of(spec):
    """Return the name of the distribution of an installed module; several share packages, such as opentelemetry."""
    names = set(installed_packages()[spec.name.split(".")[0]])
    return next((name for name in names if len(names) == 1 or spec.origin in files_of(name)), None)


@pytest.mark.parametrize("folder", GROUP_OF)
def test_every_package_that_is_imported_is_declared(folder):
    listed = subprocess.run(["git", "ls-files", f"{folder}*.py"], cwd=shipped.ROOT, capture_output=True, check=True)
    files = [file for file in listed.stdout.decode().split() if not file.startswith(OF_PEERS)]
    specs = [spec for file in files for spec in installed_modules(shipped.ROOT / file) if spec]
    assert {distribution_of(spec).lower() for spec in specs if spec.origin} - declared(GROUP_OF[folder]) == set()


def sends(pattern, path):
    """Return whether a pattern of .dockerignore lets through a file, or something in a folder."""
    return path == pattern or fnmatch.fnmatch(path, pattern) or pattern.startswith(f"{path}/")


@pytest.mark.parametrize("directory", [*PROGRAMS, "otel", "infrastructure/local"])
def test_what_an_image_copies_is_sent_to_the_build(directory):
    allowed = re.findall(r"^!(\S+)$", (shipped.ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert [path for path in copied(directory) if not any(sends(pattern, path) for pattern in allowed)] == []


def test_every_image_and_the_resolution_are_of_one_python():
    directories = ["onboarding-api", "onboarding-lambda", "infrastructure/local"]
    files = ["Makefile", *(f"{directory}/Dockerfile" for directory in directories)]
    text = "".join((shipped.ROOT / path).read_text() for path in files)
    images = re.findall(r"^ARG PYTHON_VERSION=(\d+\.\d+)", text, re.MULTILINE)
    assert len(images) == len(directories)
    assert set(images) == set(re.findall(r"--python-platform linux --python-version (\S+)", text))
