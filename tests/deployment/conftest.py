"""AWS accounts: an empty one, and one in which everything is deployed; a test gets a copy it may change."""

import shutil
import subprocess

import pytest

from account import KEY, Account, aws_v1, emulator


def aws_v2():
    """Return the path of an aws program of version 2, if one is installed."""
    program = shutil.which("aws")
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout if program else ""
    return program if version.startswith("aws-cli/2.") else None


@pytest.fixture(scope="session")
def empty(tmp_path_factory):
    """An empty account, which is copied and not changed."""
    directory = tmp_path_factory.mktemp("account")
    program, socket = aws_v1(directory)
    with program, emulator(directory) as aws:
        yield Account(aws.output, directory, {"AWS_SOCKET": str(socket)})


@pytest.fixture(scope="session")
def deployed(empty, tmp_path_factory):
    """An account after one up, which is copied and not changed; printed: by up. operations: of its requests."""
    account = empty.fork(tmp_path_factory.mktemp("deployed") / "1")
    outcome = account.run("up", stdin=f"{KEY}\n")
    assert outcome.status == 0, outcome
    account.printed = outcome.stdout + outcome.stderr
    account.operations = account.order("calls")
    yield account
    account.end()


@pytest.fixture
def account(empty, tmp_path):
    """An empty account."""
    copy = empty.fork(tmp_path / "empty")
    yield copy
    copy.end()


@pytest.fixture
def copy(deployed, tmp_path):
    """An account in which everything is deployed."""
    copy = deployed.fork(tmp_path / "copy")
    yield copy
    copy.end()


@pytest.fixture(params=["aws v2", "bash 3.2", "aws v2 and bash 3.2"])
def other(request, empty, tmp_path):
    """An empty account in front of other programs than the usual ones."""
    copy = empty.fork(tmp_path / "other")
    if "bash 3.2" in request.param:
        copy.bash = shutil.which("bash3.2")
    if "aws v2" in request.param:
        del copy.environment["AWS_SOCKET"]
        copy.environment["AWS_PROGRAM"] = aws_v2()
    yield copy if copy.bash and None not in copy.environment.values() else None
    copy.end()
