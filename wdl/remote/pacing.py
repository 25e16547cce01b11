"""How many requests are under way to one address."""

import asyncio
import time
from typing import Any

import aiohttp
import httpx2
import openai
from anyio import CapacityLimiter

CONNECT = 5.0  # seconds
BURST = 1.0
"""Seconds in which any number of 429s are one sign."""


class Paced(openai.DefaultAioHttpClient):
    """A connection that has fewer requests under way after a 429, and then slowly more.

    This is where each try passes, also those that are sent again.

    Args:
        in_flight: Most requests at a time.
        timeout: Seconds that a reply may take.
    """

    def __init__(self, in_flight: int, timeout: float) -> None:
        super().__init__(timeout=openai.Timeout(timeout, connect=min(timeout, CONNECT)))
        self._most = in_flight
        self._limiter = CapacityLimiter(in_flight)
        self._seconds = timeout
        self._fewer_at = float("-inf")
        self._good = 0

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """As of the base, when it is this request's turn."""
        async with self._limiter:
            try:
                async with asyncio.timeout(self._seconds):
                    response = await super().send(request, **options)
            except TimeoutError:
                raise httpx2.ReadTimeout("no reply in time", request=request) from None
            except aiohttp.ClientError as error:  # one that openai does not know: no HTTP, say
                raise httpx2.ReadError(str(error), request=request) from None
        self._adapt(response.status_code)
        return response

    def _adapt(self, status: int) -> None:
        now, limit = time.monotonic(), int(self._limiter.total_tokens)
        if status == 429:
            if now - self._fewer_at > BURST:
                self._fewer_at = now
                self._limiter.total_tokens = max(1, limit // 2)
            self._good = 0
        elif limit < self._most:
            self._good += 1
            if self._good >= limit:
                self._good = 0
                self._limiter.total_tokens = limit + 1
