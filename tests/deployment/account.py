"""Where the README's deployment is executed: an empty AWS account on this machine, and a shell to paste into.

AWS is moto server. What moto or aws lacks, and what stands in for docker, curl and the traffic script, is in shims/.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import boto3

import shipped
from stack import Child, free_port, poll_until

SHIMS = Path(__file__).parent / "shims"
RESOURCES = [
    ("cloudformation", "list_stacks", "StackSummaries[?StackStatus!='DELETE_COMPLETE'].StackName"),
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
    """Of one block."""

    status: int
    stdout: str
    stderr: str


class Shell:
    """One bash that runs block after block, as if they were pasted into it; a context manager."""

    def __init__(self, directory, environment):
        self._directory = directory
        self._bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=directory / "checkout",
            env=environment,
            start_new_session=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bash.stdin.close()
        self._bash.wait(timeout=10)
        self._bash.stdout.close()

    def run(self, block, stdin=""):
        """Run a block; return its status, stdout and stderr. One that hangs is ended, together with the shell."""
        (self._directory / "block").write_text(block)
        (self._directory / "stdin").write_text(stdin)
        watchdog = threading.Timer(100, os.killpg, (self._bash.pid, 9))
        watchdog.start()
        self._bash.stdin.write(". ../block < ../stdin > ../stdout 2> ../stderr; echo $?\n")
        self._bash.stdin.flush()
        status = self._bash.stdout.readline()
        watchdog.cancel()
        stdout, stderr = ((self._directory / name).read_text() for name in ("stdout", "stderr"))
        assert status, f"the shell has ended in:\n{block}\n{stdout}{stderr}"
        return Outcome(int(status), stdout, stderr)

    def must(self, block, stdin=""):
        """Run a block that must succeed; return its stdout."""
        done = self.run(block, stdin)
        assert done.status == 0, f"{block}\n{done.stdout}{done.stderr}"
        return done.stdout


class Tasks(BaseHTTPRequestHandler):
    """ECS, as far as it starts tasks: one runs, with this network interface."""

    interface = None

    def do_POST(self):
        """Answer ListTasks, DescribeTasks and, for the waiter, DescribeServices."""
        self.rfile.read(int(self.headers["Content-Length"]))
        task = {"attachments": [{"details": [{"name": "networkInterfaceId", "value": self.interface}]}]}
        answers = {
            "ListTasks": {"taskArns": ["arn:aws:ecs:us-east-1:123456789012:task/cal-onboarding/1"]},
            "DescribeTasks": {"tasks": [task]},
            "DescribeServices": {"services": [{"deployments": [{}], "desiredCount": 1, "runningCount": 1}]},
        }
        body = json.dumps(answers[self.headers["X-Amz-Target"].split(".")[1]]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Print nothing."""


def list_services(ecs, cluster):
    """Return the ARNs of a cluster's active services; moto lists deleted ones, too."""
    arns = ecs.list_services(cluster=cluster)["serviceArns"]
    services = ecs.describe_services(cluster=cluster, services=arns)["services"] if arns else []
    return [service["serviceArn"] for service in services if service["status"] == "ACTIVE"]


class Account(contextlib.ExitStack):
    """An empty AWS account on this machine, and a checkout in which the traffic script is a shim; a context manager.

    aws_v2: the path of the aws program of version 2; version 1 of the lock file if None.
    """

    def __init__(self, directory, aws_v2=None):
        super().__init__()
        self.directory = directory
        self._aws_v2 = aws_v2
        self._clients = {}
        self._calls = directory / "calls"
        self._endpoint = f"http://127.0.0.1:{free_port()}"

    def __enter__(self):
        checkout = self.directory / "checkout"
        checkout.mkdir()
        for name in ("infrastructure", "onboarding-api", "onboarding-lambda", "otel"):
            (checkout / name).symlink_to(shipped.ROOT / name)
        (checkout / "generate-sustained-traffic.sh").symlink_to(SHIMS / "generate-sustained-traffic.sh")
        self._calls.touch()
        command = ["moto_server", "-H", "127.0.0.1", "-p", self._endpoint.split(":")[2]]
        self.enter_context(Child("moto", command, f"{self._endpoint}/moto-api/", {}, self.directory))
        tasks = self.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Tasks))
        threading.Thread(target=tasks.serve_forever).start()
        self.callback(tasks.shutdown)
        self.environment = {
            "PATH": os.pathsep.join([str(SHIMS), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(self.directory),
            "CALLS": str(self._calls),
            "MOTO_ENDPOINT": self._endpoint,
            "TASKS_ENDPOINT": f"http://127.0.0.1:{tasks.server_port}",
            **({"AWS_PROGRAM": self._aws_v2} if self._aws_v2 else {"AWS_SOCKET": self._load_aws_v1()}),
            **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "test"),
            **dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9"),
            "no_proxy": "127.0.0.1",
        }
        return self

    def _load_aws_v1(self):
        socket = self.directory / "aws.socket"
        log = self.enter_context((self.directory / "aws.log").open("wb"))
        server = subprocess.Popen([sys.executable, SHIMS / "aws_v1.py", socket], env={}, stdout=log, stderr=log)
        self.callback(server.wait, timeout=10)
        self.callback(server.terminate)
        poll_until(socket.exists, "the aws program to load")
        return str(socket)

    def client(self, service):
        """Return a boto3 client of the account."""
        if service not in self._clients:
            keys = dict.fromkeys(("aws_access_key_id", "aws_secret_access_key"), "test")
            self._clients[service] = boto3.client(service, "us-east-1", endpoint_url=self._endpoint, **keys)
        return self._clients[service]

    def calls(self, start=""):
        """Return the recorded command lines that start with these words."""
        return [line for line in self._calls.read_text().splitlines() if line.startswith(start)]

    def resources(self):
        """Return what there is, as {operation: sorted names}; without clusters, since moto never deletes one."""
        found = {
            operation: sorted(filter(None, self.client(service).get_paginator(operation).paginate().search(names)))
            for service, operation, names in RESOURCES
        }
        ecs = self.client("ecs")
        arns = [arn for cluster in ecs.list_clusters()["clusterArns"] for arn in list_services(ecs, cluster)]
        return found | {"list_services of ECS": arns}

    def start_task(self):
        """Make the interface, with a public address, of the task that ECS would have started; return both."""
        ec2, network = self.client("ec2"), self.service()["networkConfiguration"]["awsvpcConfiguration"]
        interface = ec2.create_network_interface(SubnetId=network["subnets"][0], Groups=network["securityGroups"])
        Tasks.interface = interface["NetworkInterface"]["NetworkInterfaceId"]
        address = ec2.allocate_address(Domain="vpc")
        ec2.associate_address(AllocationId=address["AllocationId"], NetworkInterfaceId=Tasks.interface)
        return Tasks.interface, address["PublicIp"]

    def service(self):
        """Return the ECS service."""
        answer = self.client("ecs").describe_services(cluster="cal-onboarding", services=["onboarding-api"])
        return answer["services"][0]

    def task_definition(self, name="cal-onboarding-api-demo"):
        """Return a task definition, by default the latest."""
        return self.client("ecs").describe_task_definition(taskDefinition=name)["taskDefinition"]

    def function(self):
        """Return the function's configuration, with its code's location."""
        function = self.client("lambda").get_function(FunctionName="cal-onboarding-lambda")
        return function["Configuration"] | {"Code": function["Code"]}

    def security_group(self, name):
        """Return the security group of that name."""
        filters = [{"Name": "group-name", "Values": [name]}]
        return self.client("ec2").describe_security_groups(Filters=filters)["SecurityGroups"][0]

    def queue(self, name):
        """Return a queue's attributes, and its URL as Url."""
        sqs = self.client("sqs")
        url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
        return sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"] | {"Url": url}
