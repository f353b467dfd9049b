"""A TCP proxy that does to connections what networks, load balancers and frozen sandboxes do."""

import contextlib
import socket
import threading
import time


class Proxy:
    """Listens on 127.0.0.1:port and passes everything on to 127.0.0.1:target; a context manager.

    targets can be changed: each new connection goes to the next (host, port), as with a name of several addresses.
    mode is "pass", "black hole" (reads everything, passes nothing on), "deaf" (passes requests on, swallows the
    responses), "refuse" (resets every new connection) or "respond" (responds to every request with the bytes in reply,
    and closes). delay: seconds that every piece of a response is late. Changes count at once, for open connections,
    too. accepted: how many connections there have been.
    """

    def __init__(self, target):
        self.mode, self.delay, self.reply, self._accepted = "pass", 0, b"", 0
        self.targets = [("127.0.0.1", target)]
        self._dead, self._open, self._threads = set(), set(), []
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self):
        self._start(self._accept)
        return self

    def __exit__(self, *_):
        self._over.set()
        for connection in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def cut(self):
        """Let every open connection go silent without a word to either end, as a NAT that has forgotten it."""
        self._dead |= self._open

    def _start(self, target, *arguments):
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._accepted += 1
                if self.mode == "refuse":
                    _reset(client)
                else:
                    self._start(self._connect, client)

    def _connect(self, client):
        try:
            server = socket.create_connection(self.targets[self._accepted % len(self.targets)], timeout=10)
        except OSError:
            return _reset(client)
        server.settimeout(None)
        self._open |= {client, server}
        self._start(self._pump, server, client, True)
        self._pump(client, server, False)

    def _pump(self, source, sink, is_response):
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if self.mode == "respond" and not is_response:
                    source.sendall(self.reply)
                    break
                if is_response:
                    time.sleep(self.delay)
                if not (source in self._dead or self.mode == "black hole" or (self.mode == "deaf" and is_response)):
                    sink.sendall(piece)
        if source in self._dead:
            self._over.wait()  # neither end hears from the other again
        for end in (source, sink):
            self._open.discard(end)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextlib.contextmanager
def unreachable_port():
    """A port on which a connection is never accepted and never refused: its backlog is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def _reset(connection):
    """Close with RST, as a host that knows nothing of the connection."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        connection.close()
