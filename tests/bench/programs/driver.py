"""Sends requests to the API: as a module in a loop, as driver.py PORT RATE SECONDS CONNECTIONS at a steady rate."""

import http.client
import itertools
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

SMOKE = ("POST", "/telemetry/smoke", b'{"customer_id":"TEST-001"}', {"Content-Type": "application/json"}, 202)
THIN = ("GET", "/thin", None, {}, 200)


class Connection:
    """One connection to the API, kept open."""

    def __init__(self, port):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def send(self, method, path, body, headers, expected):
        """Return (seconds it took, the response's body); raises RuntimeError for any status but the expected one."""
        began = time.perf_counter()
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        content = response.read()
        if response.status != expected:
            raise RuntimeError(f"{path} responded {response.status}: {content[:200]!r}")
        return time.perf_counter() - began, content


def in_a_loop(port, request, count, connections=4):
    """Send a request count times, one after the other on each of the connections; return the seconds each took."""

    def send(share):
        connection = Connection(port)
        return [connection.send(*request)[0] for _ in range(share)]

    with ThreadPoolExecutor(connections) as pool:
        return list(itertools.chain(*pool.map(send, [count // connections] * connections)))


def at_a_rate(port, rate, seconds, connections):
    """Send smoke requests at fixed points in time, however late; return [(seconds, response), ...].

    The seconds count from when a request was due.
    """
    due = iter(range(round(rate * seconds)))
    lock, start, responses = threading.Lock(), time.perf_counter(), []

    def send(_):
        connection = Connection(port)
        while True:
            with lock:
                number = next(due, None)
            if number is None:
                return
            at = start + number / rate
            time.sleep(max(0.0, at - time.perf_counter()))
            _, content = connection.send(*SMOKE)
            responses.append((time.perf_counter() - at, json.loads(content)))

    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(send, range(connections)))
    return responses


if __name__ == "__main__":
    port, rate, seconds, connections = sys.argv[1:]
    json.dump(at_a_rate(int(port), float(rate), float(seconds), int(connections)), sys.stdout)
