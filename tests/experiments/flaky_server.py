"""An HTTP server of one file that can fail in several ways."""

import contextlib
import hashlib
import http.server
import re
import threading

import numpy as np

from experiments.datasets.registry import DataFile

CONTENT = np.random.default_rng(0).bytes(300_000)


@contextlib.contextmanager
def serving():
    """Serves until the end of the context."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.stop.set()
        server.shutdown()
        thread.join()


def data_file(url, content=CONTENT):
    sha256 = hashlib.sha256(content).hexdigest()
    return DataFile("published", "folder/Published.mat", url, len(content), sha256)


def files_in(directory):
    return sorted(path.name for path in directory.rglob("*") if path.is_file())


class Server(http.server.ThreadingHTTPServer):
    """Serves one file, and can fail in several ways.

    Attributes:
        ranges: whether it supports range requests.
        length: "announced", "chunked" or "unsaid".
        breaks_after: bytes of a response after which the connection is closed, or None.
        stalls: whether the connection hangs instead of being closed.
        asked: the ranges of the requests so far, None for the whole file.
        sent: bytes of each response so far.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.length = CONTENT, True, "announced"
        self.breaks_after, self.stalls, self.stop = None, False, threading.Event()
        self.asked, self.sent = [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file"

    def handle_error(self, request, client_address):
        """Ignores closed connections, which the tests provoke."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.close_connection = True
        server = self.server
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path != "/file":
            self.send_error(404)
            return
        asked = self.headers["Range"]
        server.asked.append(asked)
        begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        if begin and begin >= len(server.content):
            self.send_error(416)
            return
        self.reply(206 if begin else 200, server.content[begin:])

    def reply(self, status, content):
        server = self.server
        self.send_response(status)
        if server.length == "announced":
            self.send_header("Content-Length", str(len(content)))
        if server.length == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = content[: server.breaks_after]
        server.sent.append(len(sent))
        if server.length == "chunked":
            self.wfile.write(f"{len(content):x}\r\n".encode())
        self.wfile.write(sent)
        if server.length == "chunked" and len(sent) == len(content):
            self.wfile.write(b"\r\n0\r\n\r\n")
        if server.stalls:
            server.stop.wait(30)

    def log_message(self, *_):
        pass
