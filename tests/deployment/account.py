"""Where deploy.sh is executed: AWS accounts on this machine, and the programs it calls.

emulator.py is AWS; shims/ has the aws program, turned to it, and stand-ins for docker, curl and sleep.
"""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple

import boto3

import shipped
from stack import poll_until

FOLDER = Path(__file__).parent
SCRIPT = shipped.ROOT / "infrastructure" / "deploy.sh"
KEY = "the-key-that-nobody-may-see"
VARIABLES = {"AWS_REGION": "us-east-1", "CORALOGIX_DOMAIN": "us2.coralogix.com", "IMAGE_TAG": "1.0.0"}
STREAM = {"FIREHOSE_ARN": "arn:aws:firehose:::x", "METRIC_STREAM_ROLE_ARN": "arn:aws:iam::123456789012:role/x"}
RESOURCES = [
    ("cloudformation", "list_stacks", "StackSummaries[?StackStatus!='DELETE_COMPLETE'].StackName"),
    ("ec2", "describe_network_interfaces", "NetworkInterfaces[].NetworkInterfaceId"),
    ("ec2", "describe_security_groups", "SecurityGroups[?GroupName!='default'].GroupId"),
    ("ecr", "describe_repositories", "repositories[].repositoryName"),
    ("ecs", "list_task_definitions", "taskDefinitionArns[]"),
    ("iam", "list_roles", "Roles[].RoleName"),
    ("lambda", "list_event_source_mappings", "EventSourceMappings[].UUID"),
    ("lambda", "list_functions", "Functions[].FunctionArn"),
    ("logs", "describe_log_groups", "logGroups[].logGroupName"),
    ("secretsmanager", "list_secrets", "SecretList[].ARN"),
    ("servicediscovery", "list_namespaces", "Namespaces[].Id"),
    ("servicediscovery", "list_services", "Services[].Id"),
    ("sqs", "list_queues", "QueueUrls[]"),
]


class Outcome(NamedTuple):
    """Of one run of deploy.sh."""

    status: int
    stdout: str
    stderr: str


class Program:
    """A program that runs until the tests have ended; a context manager. output: its first line, if it prints one."""

    def __init__(self, *command, log, prints):
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, *command], env={"PATH": os.environ["PATH"]}, stdout=subprocess.PIPE, stderr=file
            )
        self.output = self._process.stdout.readline().decode().strip() if prints else ""
        assert self.output or not prints, log.read_text()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(timeout=10)
        self._process.stdout.close()


def emulator(directory):
    """Return the Program that is AWS; its output is its port."""
    return Program(FOLDER / "emulator.py", log=directory / "emulator.log", prints=True)


def aws_v1(directory):
    """Return the Program that runs version 1 of aws, and its socket."""
    socket = directory / "aws.socket"
    program = Program(FOLDER / "shims" / "aws_v1.py", socket, log=directory / "aws.log", prints=False)
    poll_until(socket.exists, "the aws program to load")
    return program, socket


class Account:
    """One AWS account, on a port of the emulator.

    aws: {"AWS_SOCKET": of version 1} or {"AWS_PROGRAM": path of version 2}; bash: what runs the script.
    """

    def __init__(self, port, directory, aws, bash="bash"):
        self.endpoint = f"http://127.0.0.1:{port}"
        self.directory, self.aws, self.bash = directory, aws, bash
        self._clients = {}
        self._calls = directory / "calls"
        self._calls.touch()
        self.environment = {
            "PATH": os.pathsep.join([str(FOLDER / "shims"), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(directory),
            "TMPDIR": str(directory),
            "CALLS": str(self._calls),
            "EMULATOR": self.endpoint,
            "AWS_MAX_ATTEMPTS": "1",
            "READ_TIMEOUT": "60",
            "AWS_EC2_METADATA_DISABLED": "true",
            **aws,
            **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "test"),
            **dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9"),
            "no_proxy": "127.0.0.1",
        }

    def order(self, name, content=None):
        """Give the emulator an order; return its result."""
        if name == "faults":  # otherwise a busy machine has all the time it needs
            self.environment["READ_TIMEOUT"] = "2" if "timed out" in content.values() else "60"
        with urllib.request.urlopen(f"{self.endpoint}/emulator/{name}", json.dumps(content).encode()) as response:
            return json.load(response)

    def fork(self, directory):
        """Return a copy of this account, which is to be left with end()."""
        directory.mkdir()
        copy = self.order("fork")
        account = Account(copy["port"], directory, self.aws, self.bash)
        account.process = copy["process"]
        return account

    def end(self):
        """Forget a copy."""
        os.kill(self.process, signal.SIGKILL)

    def run(self, *command, stdin="", **variables):
        """Run deploy.sh; a variable that is None is unset. Return status, stdout and stderr."""
        environment = {**self.environment, **VARIABLES, **variables}
        environment = {name: value for name, value in environment.items() if value is not None}
        done = subprocess.run(
            [self.bash, SCRIPT, *command],
            input=stdin,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1200,
            cwd=self.directory,
            start_new_session=True,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def must(self, *command, **options):
        """Run deploy.sh, which must succeed; return its stdout."""
        done = self.run(*command, **options)
        assert done.status == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def up(self, **variables):
        """Run up with the key in the pipe; return its stdout."""
        return self.must("up", stdin=f"{KEY}\n", **variables)

    def client(self, service):
        """Return a boto3 client of the account."""
        if service not in self._clients:
            keys = dict.fromkeys(("aws_access_key_id", "aws_secret_access_key"), "test")
            self._clients[service] = boto3.client(service, "us-east-1", endpoint_url=self.endpoint, **keys)
        return self._clients[service]

    def calls(self, start=""):
        """Return the recorded command lines that start with these words."""
        return [line for line in self._calls.read_text().splitlines() if line.startswith(start)]

    def resources(self):
        """Return what there is, as {operation: sorted names}."""
        found = {
            operation: sorted(filter(None, self.client(service).get_paginator(operation).paginate().search(names)))
            for service, operation, names in RESOURCES
        }
        ecs = self.client("ecs")
        clusters = ecs.describe_clusters(clusters=ecs.list_clusters()["clusterArns"])["clusters"]
        names = [cluster["clusterName"] for cluster in clusters if cluster["status"] == "ACTIVE"]
        services = [s for name in names for s in ecs.list_services(cluster=name)["serviceArns"]]
        return found | {"clusters": names, "services": services, "metric streams": self.order("metric-streams")}

    def service(self):
        """Return the ECS service."""
        response = self.client("ecs").describe_services(
            cluster="cal-onboarding", services=["onboarding-api"], include=["TAGS"]
        )
        return response["services"][0]

    def task_definition(self, name="cal-onboarding-api-demo"):
        """Return a task definition, by default the latest."""
        return self.client("ecs").describe_task_definition(taskDefinition=name)["taskDefinition"]

    def function(self):
        """Return the function's configuration, with its code's location and its tags."""
        function = self.client("lambda").get_function(FunctionName="cal-onboarding-lambda")
        return function["Configuration"] | {"Code": function["Code"], "Tags": function.get("Tags", {})}

    def mapping(self):
        """Return the event source mapping."""
        (mapping,) = self.client("lambda").list_event_source_mappings()["EventSourceMappings"]
        return mapping

    def security_group(self, name):
        """Return the security group of that name."""
        filters = [{"Name": "group-name", "Values": [name]}]
        return self.client("ec2").describe_security_groups(Filters=filters)["SecurityGroups"][0]

    def queue(self, name):
        """Return a queue's attributes, and its URL as Url."""
        sqs = self.client("sqs")
        url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
        return sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"] | {"Url": url}

    def output(self):
        """Return the stack's placeholders as {name: value}."""
        (stack,) = self.client("cloudformation").describe_stacks(StackName="cal-onboarding")["Stacks"]
        return dict(pair.split("=", 1) for pair in stack["Outputs"][0]["OutputValue"].split())
