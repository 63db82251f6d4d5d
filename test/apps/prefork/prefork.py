"""A pre-fork server on plain blocking sockets that nobody instrumented.

A process serves one connection at a time, and calls its downstream from the
thread that read the request, as classic servers do.

GET /anything?QUERY  answers with the header blocks that the hops received, each
    a line of base64, its own first. With DOWNSTREAM=HOST:PORT it calls
    /next?QUERY there, on a connection kept as long as its client's, and answers
    with its status. The last hop answers status=500 with that, after ms=20.
POST /relay  has a body {"to": "HOST:PORT", "send": [BASE64, ...], "recv": [N, ...]}:
    sends these pieces there, one send each, and answers with its own header
    block and what came back. The next request on this connection is read by
    receives of at most those sizes, and of 64 KiB after them.

PORT; WORKERS (default 4); BIND (default 127.0.0.1; "::" takes IPv4 as well).
"""

import base64
import json
import os
import socket
import sys
import time
from urllib.parse import parse_qs, urlsplit

DOWNSTREAM = os.environ.get("DOWNSTREAM", "")
BIND = os.environ.get("BIND", "127.0.0.1")
BLANK = b"\r\n\r\n"


class Closed(Exception):
    """The peer has closed the connection."""


class Peer:
    """A connection with what was received and not used yet."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""
        self.sizes = []

    def receive(self):
        piece = self.sock.recv(self.sizes.pop(0) if self.sizes else 65536)
        if not piece:
            raise Closed
        self.data += piece

    def head(self):
        while (at := self.data.find(BLANK)) < 0:
            self.receive()
        head, self.data = self.data[: at + 4], self.data[at + 4 :]
        return head

    def body(self, head):
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        while len(self.data) < length:
            self.receive()
        body, self.data = self.data[:length], self.data[length:]
        return body


def connect(address):
    host, _, port = address.rpartition(":")
    return Peer(socket.create_connection((host.strip("[]"), int(port)), timeout=60))


class Session:
    """One client's connection and the one to the downstream."""

    def __init__(self, sock):
        self.client = Peer(sock)
        self.down = None

    def serve(self):
        while True:
            head = self.client.head()
            body = self.client.body(head)
            method, target, _ = head.split(b"\r\n")[0].decode("latin-1").split(" ", 2)
            if method == "POST" and target.startswith("/relay"):
                status, answer = self.relay(json.loads(body))
            else:
                status, answer = self.call(target)
            answer = base64.b64encode(head) + b"\n" + answer
            self.respond(status, b"" if method == "HEAD" else answer, len(answer))

    def respond(self, status, body, length):
        self.client.sock.sendall(b"HTTP/1.1 %d Answer\r\nContent-Length: %d\r\n\r\n" % (status, length) + body)

    def call(self, target):
        parts = urlsplit(target)
        if not DOWNSTREAM or parts.path == "/ready":
            query = parse_qs(parts.query)
            time.sleep(int(query.get("ms", ["0"])[0]) / 1000)
            return int(query.get("status", ["200"])[0]), b""
        if self.down is None:
            self.down = connect(DOWNSTREAM)
        request = "GET /next?%s HTTP/1.1\r\nHost: downstream\r\n\r\n" % parts.query
        self.down.sock.sendall(request.encode())
        head = self.down.head()
        return int(head.split(b" ", 2)[1]), self.down.body(head)

    def relay(self, order):
        peer = connect(order["to"])
        for piece in order["send"]:
            peer.sock.sendall(base64.b64decode(piece))
        answer = b""
        try:
            while True:
                peer.receive()
        except Closed:
            answer = peer.data
        peer.sock.close()
        self.client.sizes = order.get("recv", [])
        return 200, answer

    def close(self):
        for peer in (self.client, self.down):
            if peer:
                peer.sock.close()


def work(listener):
    while True:
        session = Session(listener.accept()[0])
        try:
            session.serve()
        except (Closed, ConnectionError):
            pass  # the client may go whenever it likes
        finally:
            session.close()


def main():
    family = socket.AF_INET6 if ":" in BIND else socket.AF_INET
    listener = socket.create_server(
        (BIND, int(os.environ["PORT"])),
        family=family,
        backlog=512,
        dualstack_ipv6=family == socket.AF_INET6,
    )
    for _ in range(int(os.environ.get("WORKERS", "4"))):
        if os.fork() == 0:
            work(listener)
    listener.close()
    _, status = os.wait()
    sys.exit("a worker ended: status %d" % status)


if __name__ == "__main__":
    main()
