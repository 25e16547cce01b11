"""Many requests at a time: our client beside the bare openai client, and beside the ideal.

    python benchmarks/client.py

A server in a process of its own answers each request after 50 ms. The ideal is
requests / in flight x 50 ms. The peer sends the same requests by ``openai.AsyncOpenAI`` from as
many tasks as there are requests in flight: no journal, no budget, no 429 rule.
"""

import argparse
import asyncio
import multiprocessing
import time
from multiprocessing.connection import Connection

import openai

from wdl.remote.client import Client
from wdl.remote.endpoint import Endpoint

DELAY = 0.05
BODY = (
    b'{"id":"1","object":"chat.completion","created":0,"model":"m","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"7"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}'
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    b"Content-Length: " + str(len(BODY)).encode() + b"\r\n\r\n" + BODY
)


class Answering(asyncio.Protocol):
    """Answers each request after the delay, and does nothing else, to leave the processor alone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.read = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer once the body is there."""
        self.read += data
        head, found, body = self.read.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        if found and len(body) >= int(length):
            self.read = b""
            asyncio.get_running_loop().call_later(DELAY, self.transport.write, ANSWER)


def serve(port: Connection) -> None:
    """Run the server until it is killed."""

    async def forever() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Answering, "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


def ours(url: str, requests: int, in_flight: int) -> None:
    """The client that sampling and grading use."""
    end = Endpoint(url=url, model="m", in_flight=in_flight)
    bodies = ((n, end.body([{"role": "user", "content": f"q{n}"}])) for n in range(requests))
    found = sum(len(batch) for batch in Client(end, whole=True).ask(bodies))
    assert found == requests


def peer(url: str, requests: int, in_flight: int) -> None:
    """The bare openai client."""

    async def work(client: openai.AsyncOpenAI, numbers: list[int]) -> None:
        while numbers:
            message = {"role": "user", "content": f"q{numbers.pop()}"}
            await client.chat.completions.create(model="m", messages=[message])  # type: ignore[list-item]

    async def every() -> None:
        numbers = list(range(requests))
        async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
            await asyncio.gather(*(work(client, numbers) for _ in range(in_flight)))

    asyncio.run(every())


def main() -> None:
    """Time both, alternating, and print the best of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=8000)
    parser.add_argument("--in_flight", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    ideal = options.requests / options.in_flight * DELAY
    receives, sends = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.Process(target=serve, args=(sends,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{receives.recv()}/v1"
    seconds: dict[str, list[float]] = {"wdl": [], "openai": []}
    for _ in range(options.repeats):
        for name, send in (("wdl", ours), ("openai", peer)):
            began = time.perf_counter()
            send(url, options.requests, options.in_flight)
            seconds[name].append(time.perf_counter() - began)
    for name, times in seconds.items():
        print(f"{name:7} {min(times):6.2f} s, {min(times) / ideal:.2f} x ideal ({ideal:.1f} s)")


if __name__ == "__main__":
    main()
