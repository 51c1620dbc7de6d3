"""An OpenAI-compatible chat server on 127.0.0.1 that misbehaves as it is told."""

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

PATIENCE = 30  # seconds; longer than any client of the tests waits


@dataclass(frozen=True)
class Asked:
    """A request as it came: its body and its headers, and how often its chat had been asked before."""

    body: dict
    headers: dict[str, str]
    earlier: int

    @property
    def prompt(self) -> str:
        return self.body["messages"][-1]["content"]

    @property
    def model(self) -> str:
        return self.body["model"]


@dataclass(frozen=True)
class Reply:
    """What goes back: `sent` bytes of the body (all when `None`), after `wait` has returned, or nothing at all."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"
    sent: int | None = None
    silent: bool = False
    wait: Callable[[], object] = lambda: None


def answer(text, **options):
    """A good completion of 7 + 3 tokens."""
    return body(completion(text), **options)


def completion(text, finish_reason="stop"):
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


def body(content, **options):
    return Reply(body=content if isinstance(content, bytes) else json.dumps(content).encode(), **options)


def failure(status, message, headers=(), **fields):
    return body({"error": {"message": message, **fields}}, status=status, headers=tuple(headers))


def garbage():
    return body(b"\x00\xff<!doctype html> {")


def no_choices():
    return body({"id": "chatcmpl-1", "object": "chat.completion"})


def half_a_body():
    """The connection ends in the middle of a completion."""
    return answer("x" * 400, sent=200)


def silence():
    """No reply before the client gives up."""
    return Reply(silent=True)


class FaultyServer(ThreadingHTTPServer):
    """Answers each request with what `script` says.

    Attributes:
        asked: the requests, in the order of their arrival.
        most_at_once: most requests that were under way together.
    """

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, script: Callable[[Asked], Reply]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self.closing = threading.Event()
        self._at_once = 0
        self._asks: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def asks(self) -> Counter[str]:
        """How often each prompt was asked."""
        return Counter(asked.prompt for asked in self.asked)

    def arrive(self, body: dict, headers: dict[str, str]) -> Asked:
        with self._lock:
            chat = json.dumps([body["model"], body["messages"]])
            asked = Asked(body, headers, self._asks[chat])
            self._asks[chat] += 1
            self.asked.append(asked)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            return asked

    def leave(self):
        with self._lock:
            self._at_once -= 1

    def handle_error(self, request, client_address):
        """A client that hung up is no news."""

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self.closing.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # a reply in one piece
    disable_nagle_algorithm = True
    server: FaultyServer

    def do_POST(self):
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if urlsplit(self.path).path != "/v1/chat/completions":
            return self._send(failure(404, f"no such path: {self.path}"))
        asked = self.server.arrive(content, {name.lower(): value for name, value in self.headers.items()})
        try:
            reply = self.server.script(asked)
            reply.wait()
            if reply.silent:
                self.server.closing.wait(PATIENCE)
        finally:
            self.server.leave()  # before the reply: the client may ask again at once
        if reply.silent:
            self.close_connection = True
            return None
        return self._send(reply)

    def _send(self, reply: Reply):
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in reply.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body[: reply.sent])
        if reply.sent is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_):
        """Quiet."""
