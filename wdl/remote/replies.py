"""What servers reply, and the JSON objects that models write into their replies."""

import json
import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from wdl.remote.endpoint import NOTHING, Usage

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


class NoCompletion(Exception):
    """The reply is none that the interface knows."""


@dataclass(frozen=True)
class Reply:
    """What a server made of one request.

    Args:
        key: Of the request.
        text: The message, if any.
        reasoning: What came before it, where the server keeps that apart.
        finish_reason: ``stop``, ``length``, or another of the server's.
        usage: Tokens.
        tries: How often the request was sent.
        refused: Why the server will never answer this request, with its status; empty if it did.
    """

    key: Hashable
    text: str = ""
    reasoning: str = ""
    finish_reason: str = ""
    usage: Usage = NOTHING
    tries: int = 1
    refused: str = ""

    @property
    def fault(self) -> str:
        """Why it is no whole reply; empty if it is one."""
        whole = self.refused or self.finish_reason == "stop"
        return self.refused if whole else f"ended by {self.finish_reason}"


def read_completion(key: Hashable, tries: int, content: bytes) -> Reply:
    """The reply in the body of a response.

    Raises:
        NoCompletion: There is none.
    """
    try:
        found = json.loads(content)
        choice, usage = found["choices"][0], found["usage"]
        message = choice["message"]
        return Reply(
            key,
            text=message.get("content") or "",
            reasoning=message.get("reasoning_content") or message.get("reasoning") or "",
            finish_reason=str(choice["finish_reason"]),
            usage=Usage(int(usage["prompt_tokens"]), int(usage["completion_tokens"])),
            tries=tries,
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        raise NoCompletion("the reply is no chat completion with usage") from None


def find_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is, or that it has in a fence, or else the first whole one.

    What stands in a thought is none of it.
    """
    said = text.rpartition("</think>")[2].strip()
    fenced = _FENCED.search(said)
    for candidate in (said, fenced[1] if fenced else ""):
        try:
            found = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    decoder = json.JSONDecoder()
    for brace in re.finditer("{", said):
        try:
            return decoder.raw_decode(said, brace.start())[0]
        except (ValueError, RecursionError):
            continue
    return None
