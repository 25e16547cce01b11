"""OpenAI-compatible servers: one that does as a test tells it, faults included, and vLLM's own."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from processes import wait_for


@dataclass
class Said:
    """What the server says to one request, after ``seconds``."""

    body: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def completion(text: str, reason: str = "stop", tokens: int = 7, seconds: float = 0.0) -> Said:
    """A reply that wrote ``tokens`` tokens after reading 5."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    usage = {"prompt_tokens": 5, "completion_tokens": tokens}
    return Said(json.dumps({"choices": [choice], "usage": usage}), seconds=seconds)


def refusal(status: int, why: str = "no", **headers: str) -> Said:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Said(json.dumps({"error": {"message": why}}), status, names)


def question(body: dict[str, Any]) -> str:
    """What a request asks last."""
    return body["messages"][-1]["content"]


Script = Callable[[dict[str, Any], int], Said]
"""What to say to a body that comes for the n-th time, from 0."""


@dataclass
class Server:
    """A server that runs, and what has come to it."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    under_way: int = 0
    most: int = 0

    @property
    def questions(self) -> list[str]:
        return [question(body) for body in self.bodies]


@contextmanager
def serve(script: Script) -> Iterator[Server]:
    """A server on a port of its own."""
    server, seen, lock = Server(), Counter[str](), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # one packet a reply; several would wait for each other

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = json.dumps(body)
            with lock:
                server.bodies.append(body)
                server.keys.add(self.headers["Authorization"])
                server.under_way += 1
                server.most = max(server.most, server.under_way)
                said = script(body, seen[name])
                seen[name] += 1
            time.sleep(said.seconds)
            with lock:
                server.under_way -= 1
            payload = said.body.encode()
            headers = {"Content-Type": "application/json", "Content-Length": str(len(payload))}
            with suppress(OSError):  # who asked has gone
                self.send_response(said.status)
                for header, value in {**headers, **said.headers}.items():
                    self.send_header(header, value)
                self.end_headers()
                self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """A client that was killed is no error."""

    with Quiet(("127.0.0.1", 0), Handler) as httpd:
        server.url = f"http://127.0.0.1:{httpd.server_port}/v1"
        thread = threading.Thread(target=httpd.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            httpd.shutdown()
            thread.join()


@contextmanager
def serve_vllm(interpreter: Path, model: Path, log: Path, key: str = "") -> Iterator[Server]:
    """A server of vLLM with a model that it calls ``tiny``; it wants a key if one is given."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [interpreter.absolute(), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", model, "--served-model-name", "tiny", "--dtype", "float32"]
    command += ["--enforce-eager", "--host", "127.0.0.1", "--port", port]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
    if key:
        environment["VLLM_API_KEY"] = key
    with log.open("wb") as stream:
        process = subprocess.Popen(
            list(map(str, command)),
            env=environment,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()[-3000:]
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
            return True
        return False

    try:
        wait_for(is_ready, 300)
        yield Server(f"http://127.0.0.1:{port}/v1")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
