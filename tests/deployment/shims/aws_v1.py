"""Version 1 of the aws program, loaded once and forked for each command: loading takes longer than any command."""

import gc
import json
import os
import socket
import socketserver
import sys

from awscli.clidriver import create_clidriver

WARM_UP = {
    "cloudformation": "describe-stacks",
    "cloudwatch": "list-metric-streams",
    "ec2": "describe-vpcs",
    "ecr": "describe-repositories",
    "ecs": "list-clusters",
    "lambda": "list-functions",
    "logs": "describe-log-groups",
    "secretsmanager": "list-secrets",
    "servicediscovery": "list-namespaces",
    "sqs": "list-queues",
    "sts": "get-caller-identity",
}


class Command(socketserver.StreamRequestHandler):
    """One command: arguments, environment and directory as JSON, stdin, stdout and stderr as file descriptors."""

    def handle(self):
        """Run it and return its exit status."""
        call, files, _, _ = socket.recv_fds(self.request, 2**20, 3)
        call += self.rfile.read()
        call = json.loads(call)
        for standard, file in enumerate(files):
            os.dup2(file, standard)
        os.environ.clear()
        os.environ.update(call["environment"])
        os.chdir(call["directory"])
        try:
            status = driver.main(call["arguments"])
        except SystemExit as usage:
            status = usage.code
        sys.stdout.flush()
        sys.stderr.flush()
        self.wfile.write(str(status).encode())


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Forks for each command."""

    def service_actions(self):
        """End when the tests have."""
        super().service_actions()
        if os.getppid() != parent:
            os._exit(0)


driver, parent = create_clidriver(), os.getppid()
options = ["--endpoint-url", "http://127.0.0.1:9", "--region", "us-east-1", "--cli-connect-timeout", "1"]
os.environ.update(AWS_MAX_ATTEMPTS="1", AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")
errors = os.dup(2)
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
for service, operation in WARM_UP.items():  # nobody is there, but all that a command loads is loaded
    driver.main([*options, service, operation])
os.dup2(errors, 2)
gc.freeze()
Server(sys.argv[1], Command).serve_forever()
