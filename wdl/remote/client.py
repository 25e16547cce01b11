"""Many requests to OpenAI-compatible servers at a time, answered as they get ready.

The ``openai`` client sends again what may succeed a second time, and waits as long as it is told
to. What is added here: how many requests are under way, what they may cost, and when to give up.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncGenerator, Generator, Hashable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from wdl.errors import UserError
from wdl.remote.endpoint import NOTHING, Endpoint, Usage
from wdl.remote.replies import NoCompletion, Reply, read_completion
from wdl.system.child import ChildFailure

try:
    import httpx2
    import openai

    from wdl.remote.pacing import Paced
except ImportError as error:
    raise UserError(f"{error}; install the client: pip install 'wdl[teacher]'") from None

# Replies are handed on together, since whoever journals them waits for the disk once each time.
LINGER = 0.5  # seconds
RECENT = 50
# Requests made ready for each that is under way, so that none waits for its making.
AHEAD = 2
REFUSALS = (openai.BadRequestError, openai.UnprocessableEntityError)
TOO_LARGE = 413
MESSAGE_LENGTH = 200

Asked = tuple[Hashable, dict[str, Any]]


class Unanswered(ChildFailure):
    """Servers do not answer, or not usefully; the requests may be sent again later."""


@dataclass
class _Server:
    """One address, and how many requests are with it."""

    url: str
    client: openai.AsyncOpenAI
    load: int = 0


class Client:
    """Sends requests to the servers of an endpoint.

    Args:
        endpoint: The servers.
        whole: Whether a reply that was cut off is a failure.
        spent: What counts towards the budget already.

    Raises:
        UserError: An option is wrong, or the key is not there.
    """

    def __init__(self, endpoint: Endpoint, whole: bool, spent: Usage = NOTHING) -> None:
        endpoint.check()
        self.endpoint = endpoint
        self.spent = spent
        self._key = endpoint.key()
        self._whole = whole
        self._reserved = NOTHING
        self._recent: deque[str] = deque(maxlen=RECENT)  # what was wrong with each; "" is nothing
        self._faults: list[str] = []

    def ask(self, requests: Iterable[Asked]) -> Generator[list[Reply], None, None]:
        """Answers to requests, which are keys and bodies, in any order.

        Raises:
            Unanswered: Some got none, after all others did; or more than half of the last 50
                failed.
            UserError: The servers refuse the key or do not have the model, or the budget is spent.
        """
        replies = self._replies(iter(requests))
        with asyncio.Runner() as runner:
            try:
                while batch := runner.run(_next(replies)):
                    yield batch
            finally:
                runner.run(replies.aclose())

    async def _replies(self, requests: Iterator[Asked]) -> AsyncGenerator[list[Reply], None]:
        async with AsyncExitStack() as stack:
            servers = [
                _Server(url, await stack.enter_async_context(self._connect(url)))
                for url in self.endpoint.urls
            ]
            line = _Line(requests)
            pending: set[asyncio.Task[Reply | None]] = set()
            ready: list[Reply] = []
            handed_on = time.monotonic()
            try:
                while True:
                    self._send(line, servers, pending)
                    if not pending:
                        break
                    limit = LINGER if ready else None
                    done, pending = await asyncio.wait(
                        pending, timeout=limit, return_when=asyncio.FIRST_COMPLETED
                    )
                    ready += [r for task in done if not task.exception() and (r := task.result())]
                    fatal = [error for task in done if (error := task.exception())]
                    fatal += self._hopeless()
                    late = time.monotonic() - handed_on > LINGER
                    if ready and (late or fatal):
                        yield ready
                        ready, handed_on = [], time.monotonic()
                    if fatal:
                        raise fatal[0]
            finally:
                for task in pending:
                    task.cancel()
                await asyncio.gather(*pending, return_exceptions=True)
            if ready:
                yield ready
            self._finish(line)

    def _connect(self, url: str) -> openai.AsyncOpenAI:
        end = self.endpoint
        http_client = Paced(end.in_flight, end.timeout)
        return openai.AsyncOpenAI(
            base_url=url,
            api_key=self._key or "none",
            max_retries=end.retries,
            timeout=http_client.timeout,
            http_client=http_client,
        )

    def _send(self, line: "_Line", servers: list[_Server], pending: set[Any]) -> None:
        """Put as many requests under way as servers and budget allow."""
        room = AHEAD * self.endpoint.in_flight * len(servers)
        while len(pending) < room and line.first is not None:
            key, body = line.first
            worst = self._worst(body)
            if not self.endpoint.budget.allows(self.spent.plus(self._reserved).plus(worst)):
                break
            self._reserved = self._reserved.plus(worst)
            server = min(servers, key=lambda one: one.load)
            server.load += 1
            pending.add(asyncio.create_task(self._answer(server, key, body, worst)))
            line.advance()

    def _worst(self, body: dict[str, Any]) -> Usage:
        """The most that a request can use: a token is at least a byte."""
        budget = self.endpoint.budget
        if budget.tokens is None and budget.cost is None:
            return NOTHING
        longest = body.get("max_tokens") or body.get("max_completion_tokens")
        if longest is None:
            raise UserError("extra: a budget needs max_tokens or max_completion_tokens; set one")
        return Usage(len(json.dumps(body).encode()), longest)

    async def _answer(
        self, server: _Server, key: Hashable, body: dict[str, Any], worst: Usage
    ) -> Reply | None:
        """The reply to one request; None if there is none, which may be sent again later."""
        try:
            reply = await self._ask(server, key, body)
        except (openai.APIError, NoCompletion) as error:
            fault = f"{server.url}: {_described(error)}"
            self._faults.append(fault)
            self._recent.append(fault)
            return None
        finally:
            server.load -= 1
            self._reserved = Usage(*(a - b for a, b in zip(self._reserved, worst, strict=True)))
        self.spent = self.spent.plus(reply.usage)
        self._recent.append(reply.fault if self._whole else reply.refused)
        return reply

    async def _ask(self, server: _Server, key: Hashable, body: dict[str, Any]) -> Reply:
        try:
            response = await server.client.post(
                "/chat/completions", body=body, cast_to=httpx2.Response
            )
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UserError(self._about_key(server.url, error.status_code)) from None
        except openai.NotFoundError as error:
            why = self._message(error)
            raise UserError(
                f"{server.url}: HTTP 404 ({why}); check url and model ({self.endpoint.model})"
            ) from None
        except openai.APIStatusError as error:
            if isinstance(error, REFUSALS) or error.status_code == TOO_LARGE:
                why = f"HTTP {error.status_code} ({self._message(error)})"
                return Reply(key, refused=why, tries=_tries(error.response))
            raise
        return read_completion(key, _tries(response), response.content)

    def _about_key(self, url: str, status: int) -> str:
        """What a refused key says; the server's own words may quote the key."""
        variable = self.endpoint.key_variable
        if variable is None:
            return f"{url}: HTTP {status}: it wants a key; name its variable by key_variable"
        return f"{url}: HTTP {status}: it refuses the key that {variable} holds; check both"

    def _message(self, error: openai.APIStatusError) -> str:
        """The server's words, without the key if it quotes that."""
        inner = error.body.get("message") if isinstance(error.body, dict) else error.body
        text = str(inner or "no reason given")
        text = text.replace(self._key, "***") if self._key else text
        return " ".join(text.split())[:MESSAGE_LENGTH]

    def _hopeless(self) -> list[Unanswered]:
        """Why it is no use to go on, if it is none."""
        failed = [fault for fault in self._recent if fault]
        if len(failed) <= RECENT / 2 or len(self._recent) < RECENT:
            return []
        why = f"{len(failed)} of the last {RECENT} requests failed, the last: {failed[-1]}"
        return [Unanswered(why)]

    def _finish(self, line: "_Line") -> None:
        """Say what was not answered."""
        if line.first is not None:
            budget = self.endpoint.budget
            raise UserError(
                f"budget: {self.spent.prompt + self.spent.completion} tokens "
                f"({budget.cost_of(self.spent):.4f}) are spent and the next request may exceed "
                f"tokens {budget.tokens}, cost {budget.cost}; what is answered is kept, raise the "
                "budget and the same command goes on"
            )
        if self._faults:
            raise Unanswered(
                f"{len(self._faults)} requests got no reply, the last: {self._faults[-1]}"
            )


class _Line:
    """Requests of which the first can be looked at."""

    def __init__(self, requests: Iterator[Asked]) -> None:
        self._rest = requests
        self.advance()

    def advance(self) -> None:
        """Take the first away."""
        self.first = next(self._rest, None)


def _tries(response: httpx2.Response) -> int:
    return 1 + int(response.request.headers.get("x-stainless-retry-count", 0))


def _described(error: Exception) -> str:
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}"
    cause = error.__cause__  # of what openai calls a time-out or no connection
    if isinstance(cause, httpx2.TimeoutException) and not isinstance(cause, httpx2.ConnectTimeout):
        return "no reply in time"
    return f"no connection ({cause})" if cause is not None else str(error)


async def _next(replies: AsyncGenerator[list[Reply], None]) -> list[Reply] | None:
    return await anext(replies, None)
