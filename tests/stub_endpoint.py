"""An OpenAI-compatible server on this machine, with a script of what goes wrong."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], str]


def completion(text: str | None, finish: str = "stop", **more: Any) -> dict[str, Any]:
    """A chat completion with 10 prompt tokens, and a token for each word."""
    words = len((text or "").split())
    message = {"role": "assistant", "content": text, **more}
    usage = {"prompt_tokens": 10, "completion_tokens": words, "total_tokens": 10 + words}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}


@dataclass
class Stub:
    """What the server was asked, and what it answers next."""

    answer: Answer = lambda body: "정답: A"
    """The text, once the script is empty."""
    script: list[Any] = field(default_factory=list)
    """Each the next reply: `(status, body, headers)`, or a function of the handler that does what it likes."""
    models: Any = field(default_factory=lambda: {"data": [{"id": "tiny", "owned_by": "me", "created": time.time()}]})
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    pause: float = 0.0
    """Seconds that each reply takes."""
    url: str = ""


@contextmanager
def serving(stub: Stub) -> Iterator[Stub]:
    """The server, at `stub.url`."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with lock:
                stub.keys.append(self.headers.get("Authorization"))
            status = 200 if stub.models is not None else 404
            self.reply(status, stub.models or {}, {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                stub.requests.append({"path": self.path, **body})
                stub.keys.append(self.headers.get("Authorization"))
                stub.at_once += 1
                stub.most_at_once = max(stub.most_at_once, stub.at_once)
                scripted = stub.script.pop(0) if stub.script else None
            try:
                time.sleep(stub.pause)
                if callable(scripted):
                    scripted(self)
                else:
                    status, answer, headers = scripted or (200, completion(stub.answer(body)), {})
                    self.reply(status, answer, headers)
            except OSError:  # nobody waits for it any more
                pass
            finally:
                with lock:
                    stub.at_once -= 1

        def reply(self, status: int, answer: Any, headers: dict[str, str]) -> None:
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def stall(handler: Any) -> None:
    """Headers, and nothing after them for a long time."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    time.sleep(2)


def drip(handler: Any) -> None:
    """A byte of the reply now and then: each read is in time, the whole never is."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def drip_headers(handler: Any) -> None:
    """As `drip`, before the headers have ended."""
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
    for _ in range(40):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.05)


def cut_off(handler: Any) -> None:
    """A connection that ends in the middle of the reply."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
