"""The golden trace out of the three images, as restricted as on AWS; needs a Docker engine and `make images`."""

import http.client
import json
import os
import shutil
import subprocess

import pytest

import shipped
import view
from stack import Ports, Stack, poll_until

IMAGES = {
    "onboarding-api": "cal-onboarding-api:local",
    "otel-collector": "cal-otel-collector:local",
    "onboarding-lambda": "cal-onboarding-lambda:local",
}
# The images fix these ports: both health checks ask them, and AWS's emulator has no others.
PORTS = {"api": 8000, "health_check": 13133, "function": 8080, "runtime_api": 9001}


def docker(*words):
    """Run docker; return its stdout, or None if it fails."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


class Containers(Stack):
    """The stack, with the three programs in containers that share this machine's network."""

    def _collector(self):
        child = super()._collector()
        files = [f"--config={file}" for file in self._collector_files()[1:]]
        return self._in_container(child, *shipped.start_command("otel/Dockerfile"), *files)

    def _function(self, *arguments):
        child = super()._function(*arguments)
        del child.environment["PYTHONPATH"]
        return self._in_container(
            child, options=["--tmpfs=/tmp", "--user=993:990"]
        )  # nobody in particular, as in Lambda

    def _api(self):
        return self._in_container(super()._api())

    def _in_container(self, child, *arguments, options=()):
        """Return child, changed so that it runs its image; our directories are there under their own paths."""
        name = f"{child.name}-{os.getpid()}"
        mounts = [f"--volume={path}:{path}:ro" for path in (self.run_dir, shipped.ROOT / "infrastructure/local")]
        environment = [f"--env={variable}" for variable in child.environment]
        run = ["docker", "run", "--rm", f"--name={name}", "--network=host", "--read-only", *mounts, *environment]
        child.command = [*run, *options, IMAGES[child.name], *arguments]
        child.environment |= {key: os.environ[key] for key in ("DOCKER_HOST", "DOCKER_CONTEXT") if key in os.environ}
        child.container = name
        self.callback(docker, "rm", "--force", name)
        return child


@pytest.fixture(scope="module")
def containers(tmp_path_factory):
    """The running stack of containers."""
    if not shutil.which("docker") or docker("version") is None:
        pytest.skip("there is no Docker engine")
    if missing := [image for image in IMAGES.values() if docker("image", "inspect", image) is None]:
        pytest.skip(f"make images has not built {', '.join(missing)}")
    directory = tmp_path_factory.mktemp("containers")
    for parent in (directory, *directory.parents[:2]):
        parent.chmod(0o755)  # the Collector's user reads its files there
    with Containers(directory / "run", Ports(**PORTS)) as running:
        yield running


def test_the_golden_trace_comes_out_of_the_images(containers):
    connection = http.client.HTTPConnection("127.0.0.1", containers.ports.api, timeout=20)
    body = json.dumps({"customer_id": "TEST-001"})
    connection.request("POST", "/telemetry/smoke", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    trace_id = json.loads(response.read())["trace_id"]
    connection.close()

    def spans():
        return view.trace_of(containers.ingress.spans(), trace_id)

    poll_until(lambda: len(spans()) == 4, "the four spans")
    assert view.tree(spans()) == (shipped.ROOT / "tests/golden-trace.txt").read_text()


@pytest.mark.parametrize("container", ["onboarding-api", "otel-collector"])
def test_the_task_definitions_health_check_passes_in_the_image(containers, container):
    definitions = {c["name"]: c for c in shipped.read_json("taskdef.json")["containerDefinitions"]}
    _, *command = definitions[container]["healthCheck"]["command"]
    assert docker("exec", f"{container}-{os.getpid()}", *command) is not None


def test_the_collectors_own_health_check_passes(containers):
    state = ["inspect", "--format", "{{.State.Health.Status}}", containers.collector.container]
    poll_until(lambda: docker(*state) == "healthy", "the Collector's image to find itself healthy")


@pytest.mark.parametrize(("container", "user"), [("onboarding-api", "10001"), ("otel-collector", "10001")])
def test_an_image_runs_as_an_unprivileged_user(containers, container, user):
    assert docker("exec", f"{container}-{os.getpid()}", "id", "-u") == user
