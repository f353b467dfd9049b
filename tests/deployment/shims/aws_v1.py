"""Version 1 of the aws program, loaded once and forked for each command: loading takes longer than any command."""

import json
import os
import socket
import socketserver
import sys

from awscli.clidriver import create_clidriver


class Command(socketserver.StreamRequestHandler):
    """One command: arguments, environment and directory as JSON, stdin, stdout and stderr as file descriptors."""

    def handle(self):
        """Run it and answer its exit status."""
        call, files, _, _ = socket.recv_fds(self.request, 2**20, 3)
        call += self.rfile.read()
        call = json.loads(call)
        for standard, file in enumerate(files):
            os.dup2(file, standard)
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


driver = create_clidriver()
Server(sys.argv[1], Command).serve_forever()
