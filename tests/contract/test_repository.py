"""What is committed: only the folders and files of the design, and nothing secret or personal in them."""

import ipaddress
import re
import subprocess

import pytest

import readmes
import shipped

LISTED = subprocess.run(["git", "ls-files", "-z"], cwd=shipped.ROOT, capture_output=True, text=True, check=True).stdout
FILES = [path for path in LISTED.split("\0") if (shipped.ROOT / path).is_file()]
TOP_LEVEL = {
    *(
        "onboarding-api",
        "onboarding-lambda",
        "otel",
        "infrastructure",
        "tests",
        "generate-sustained-traffic.sh",
        "README.md",
    ),
    *(
        "Makefile",
        "compose.yaml",
        "pyproject.toml",
        "requirements.lock",
        "LICENSE",
        ".gitignore",
        ".dockerignore",
        ".ci",
        ".github",
    ),
}
EXEMPT = {
    "requirements.lock": "hashes, and versions of four numbers look like addresses",
    "onboarding-api/requirements.txt": "as the lock file",
    "onboarding-lambda/requirements.txt": "as the lock file",
    "infrastructure/local/requirements.txt": "as the lock file",
}
EXAMPLE_ACCOUNTS = {"000000000000", "123456789012", "111122223333"}  # of AWS's documentation and of moto
DOCUMENTATION = [ipaddress.ip_network(n) for n in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]  # RFC 5737
SECRETS = {
    "AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "AWS secret key": r"(?i)aws_secret_access_key\W{1,4}[A-Za-z0-9/+]{40}\b",
    "Coralogix key": r"\bcx[a-z]{2}_[A-Za-z0-9]{20,}",
    "bearer token": r"Bearer(?: |%20)[A-Za-z0-9_-]{16,}",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{30,}",
}


def text(path):
    return (shipped.ROOT / path).read_text(errors="replace")


def is_harmless(address):
    """Return whether an address leads nowhere: loopback, all interfaces, documentation, or no address at all."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return True
    return parsed.is_loopback or parsed.is_unspecified or any(parsed in network for network in DOCUMENTATION)


def test_only_the_folders_and_files_of_the_design_are_at_the_top():
    assert {path.split("/")[0] for path in FILES} <= TOP_LEVEL


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_is_committed(secret):
    assert [path for path in FILES if re.search(SECRETS[secret], text(path))] == []


def test_no_account_id_is_committed():
    found = {(path, i) for path in FILES if path not in EXEMPT for i in re.findall(r"(?<!\w)\d{12}(?!\w)", text(path))}
    assert {(path, account) for path, account in found if account not in EXAMPLE_ACCOUNTS} == set()


def test_no_address_of_a_machine_is_committed():
    addresses = r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)"
    found = {(path, i) for path in FILES if path not in EXEMPT for i in re.findall(addresses, text(path))}
    assert {(path, address) for path, address in found if not is_harmless(address)} == set()


def test_no_path_of_a_machine_is_committed():
    homes = re.compile(r"(?<![\w.])/(?:home|Users|root)/\w+")
    assert [path for path in FILES if homes.search(text(path))] == []


def test_every_exemption_is_a_committed_file():
    assert set(EXEMPT) <= set(FILES)


def test_the_readmes_are_the_only_prose():
    prose = [path for path in FILES if path.endswith((".md", ".rst", ".txt", ".adoc")) and path not in EXEMPT]
    prose.remove("tests/golden-trace.txt")  # the expected trace, which a README shows
    assert {path for path in prose if not path.startswith("tests/bench/peers/")} == set(readmes.TEXTS)  # versions
