"""Begins a request to the Collector at the address given as argument, says so, and never ends it."""

import sys
import threading
import time

import grpc

from flood import EXPORT


def nothing():
    """Yield no message, ever."""
    time.sleep(1)  # nothing says when the headers have left
    print("begun", flush=True)
    threading.Event().wait()
    yield b""


grpc.insecure_channel(sys.argv[1]).stream_unary(EXPORT)(nothing())
