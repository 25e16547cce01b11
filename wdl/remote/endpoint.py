"""An OpenAI-compatible server as users name it: address, model, key, limits.

Apart from the client, so that ``--help`` imports nothing heavy.
"""

import os
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from wdl.errors import UserError


class Usage(NamedTuple):
    """Tokens that were read and written."""

    prompt: int = 0
    completion: int = 0

    def plus(self, other: "Usage") -> "Usage":
        """Both together."""
        return Usage(self.prompt + other.prompt, self.completion + other.completion)


NOTHING = Usage()


@dataclass(frozen=True)
class Budget:
    """What may be spent, and what tokens cost.

    Args:
        tokens: Most tokens, of prompts and replies together; null for no limit.
        cost: Most money, in the currency of the prices; null for no limit.
        prompt_price: Of a million tokens of prompts.
        completion_price: Of a million tokens of replies.
    """

    tokens: int | None = None
    cost: float | None = None
    prompt_price: float = 0.0
    completion_price: float = 0.0

    @property
    def has_prices(self) -> bool:
        """Whether tokens cost anything."""
        return bool(self.prompt_price or self.completion_price)

    def cost_of(self, usage: Usage) -> float:
        """What ``usage`` costs."""
        spent = usage.prompt * self.prompt_price + usage.completion * self.completion_price
        return spent / 1e6

    def allows(self, usage: Usage) -> bool:
        """Whether so much may be spent in all."""
        within = self.tokens is None or usage.prompt + usage.completion <= self.tokens
        return within and (self.cost is None or self.cost_of(usage) <= self.cost)


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server, or several that serve the same model.

    Args:
        url: Base address, such as http://localhost:8000/v1; several, separated by commas, share
            the load.
        model: The model's name at the server.
        key_variable: Environment variable that holds the key; null sends none. The key itself is
            in no option, file or message.
        in_flight: Requests at a time to each address; fewer once it says 429, then slowly more.
        timeout: Seconds that a reply may take.
        retries: How often a request is sent again that got no connection, no reply in time, or
            status 408, 409, 429 or 5xx.
        budget: What may be spent; before a request is sent, the most that it can cost is set aside.
        extra: Further fields of each request, such as {"temperature": 0.2}; one that is null is
            not sent.
    """

    url: str
    model: str
    key_variable: str | None = None
    in_flight: int = 32
    timeout: float = 600.0
    retries: int = 6
    budget: Budget = Budget()
    extra: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse what cannot work, without a connection.

        Raises:
            UserError: An option is wrong, or the key is not there.
        """
        faults = [
            f"url {_without_user(url)}: give http://HOST[:PORT]/PATH, and a key by key_variable"
            for url in self.urls
            if not _is_plain(url)
        ]
        if not self.urls:
            faults.append("url: there is none; give one such as http://localhost:8000/v1")
        faults += [
            f"{name} is {getattr(self, name)}; it is at least {least}"
            for name, least in {"in_flight": 1, "retries": 0}.items()
            if getattr(self, name) < least
        ]
        faults += [
            f"budget.{name} is {value}; it is at least 0"
            for name, value in asdict(self.budget).items()
            if value is not None and not value >= 0
        ]
        if self.timeout <= 0:
            faults.append(f"timeout is {self.timeout}; give seconds")
        if self.budget.cost is not None and not self.budget.has_prices:
            faults.append("budget.cost: tokens have no price; set prompt_price, completion_price")
        if faults:
            raise UserError(*faults)
        self.key()

    @property
    def urls(self) -> list[str]:
        """The base addresses."""
        return [url.strip().rstrip("/") for url in self.url.split(",") if url.strip()]

    def key(self) -> str | None:
        """The key, from the environment.

        Raises:
            UserError: The variable is not set, or holds what cannot be sent.
        """
        if self.key_variable is None:
            return None
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise UserError(f"key_variable: {self.key_variable} is not set; export it")
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"key_variable: {self.key_variable} holds no key; check its characters")
        return key

    def body(self, messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
        """A request for a chat completion; ``extra`` goes before ``fields``."""
        every = {"model": self.model, "messages": messages, **fields, **self.extra}
        return {name: value for name, value in every.items() if value is not None}


@dataclass(frozen=True)
class Teacher(Endpoint):
    """A larger model behind an OpenAI-compatible server, that is asked rather than trained.

    Args:
        max_tokens: Longest reply; one that is cut off there is a failure.
    """

    max_tokens: int = 2048


def bill_line(bill: dict[str, Any]) -> str:
    """What a teacher has done so far, as one line; see :meth:`TeacherClient.bill`."""
    return f"teacher: {bill['replies']} replies, {bill['tokens']} tokens, cost {bill['cost']:.4f}"


def _is_plain(url: str) -> bool:
    """Whether it is an address and nothing more."""
    try:
        parts = urlsplit(url)
        secret = parts.username or parts.password or parts.query or parts.fragment
        is_address = bool(parts.hostname) and parts.port != 0
        return parts.scheme in ("http", "https") and is_address and not secret
    except ValueError:
        return False


def _without_user(url: str) -> str:
    """An address without what may be secret in it."""
    return url.split("?")[0].rpartition("@")[2]
