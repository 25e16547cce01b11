r"""``wdl chat``: talk to a model at the prompt, or send it a line at a time.

    wdl chat runs/demo/latest/strong
    wdl chat Qwen/Qwen3-8B --url http://localhost:8000/v1 --system "Answer in one word."
    wdl chat runs/demo/latest/strong --max_new_tokens 64 < questions.txt

At the prompt, /new begins a new conversation and /image PATH shows a picture with what is said
next. Ctrl-C ends an answer, or at the prompt the chat; so does Ctrl-D.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from wdl.constants import PAPER_SYSTEM_PROMPT
from wdl.errors import UserError
from wdl.generation.engine import Engine, Generation, Request
from wdl.generation.protocols import Protocol, find_protocol
from wdl.remote.endpoint import Endpoint
from wdl.system.child import ChildFailure

Thoughts = Literal["folded", "shown"]

CHAT = Protocol("chat", max_new_tokens=2048, temperature=0.7, top_p=0.95)
PROMPT = "> "
_TAG = r"(?:\w+:)?(?:think|thinking|thought|reasoning)"
_OPENED = re.compile(rf"\s*(?:<{_TAG}>|\[THINK\])")
_CLOSED = re.compile(rf"(?:</{_TAG}>|\[/THINK\])\s*")
_PERHAPS_A_TAG = re.compile(r"\s*(?:[<\[][\w:]*)?")
# what a terminal would obey instead of showing it
_OBEYED = dict.fromkeys([*(n for n in range(32) if n not in (9, 10)), *range(127, 160)])


def chat(
    model: str,
    url: str | None = None,
    key_variable: str | None = None,
    system: str | None = None,
    protocol: str | None = None,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    thinking: bool | None = None,
    thoughts: Thoughts = "folded",
) -> None:
    """Talk to a model. What is said so far goes with each turn, but for thoughts.

    From a pipe each line is a turn, and nothing but the answers is written.

    Args:
        model: Model folder or name on the hub; with url, what the server calls it.
        url: Of an OpenAI-compatible server that has the model; it runs here otherwise.
        key_variable: Environment variable that holds the server's key.
        system: First message; paper for the paper's. By default the protocol's.
        protocol: How answers are drawn, as in wdl evaluate; by default up to 2048 tokens at
            temperature 0.7 and top_p 0.95.
        max_new_tokens: Where an answer is cut off, instead of where the protocol says.
        temperature: Of the drawing, instead of the protocol's; 0 is greedy.
        thinking: Whether the chat template lets the model think (its enable_thinking); null for
            its own default.
        thoughts: Whether what a model thinks before it answers is shown.

    Raises:
        UserError: There is no such model, an option is wrong, or a line of a pipe gets no answer.
    """
    chosen = CHAT if protocol is None else find_protocol(protocol)
    given = {"max_new_tokens": max_new_tokens, "temperature": temperature, "system_prompt": system}
    given["system_prompt"] = PAPER_SYSTEM_PROMPT if system == "paper" else system
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if thinking is not None:
        changed["template"] = chosen.template | {"enable_thinking": thinking}
    chosen = replace(chosen, samples=1, max_new_tokens_of={}, **changed)
    at_a_prompt = sys.stdin.isatty()
    with closing(_engine(model, url, key_variable)) as engine:
        conversation = Conversation(engine, chosen, thoughts)
        with suppress(BrokenPipeError):
            if at_a_prompt:
                _at_the_prompt(conversation, model)
            else:
                for number, line in enumerate(sys.stdin.buffer, start=1):
                    _answer_line(conversation, number, line)
            return
    # whoever read the answers has gone; the interpreter must not try to write the rest
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Conversation:
    """What has been said to a model, and what it answered.

    Args:
        engine: Who answers.
        protocol: How.
        thoughts: Whether thoughts are shown.
    """

    def __init__(self, engine: Engine, protocol: Protocol, thoughts: Thoughts = "folded") -> None:
        self.engine = engine
        self.protocol = protocol
        self.thoughts = thoughts
        self.begin()

    def begin(self) -> None:
        """Forget what was said."""
        system = self.protocol.system_prompt
        self.messages = [] if system is None else [{"role": "system", "content": system}]
        self.images: tuple[str, ...] = ()
        self._waiting: tuple[str, ...] = ()

    def show(self, image: str) -> None:
        """Put a picture before what is said next.

        Raises:
            UserError: There is none.
        """
        path = Path(image).expanduser().absolute()
        if not path.is_file():
            raise UserError(f"/image {image}: there is no such file")
        self._waiting += (str(path),)

    def say(self, text: str, write: Callable[[str], None]) -> Generation:
        """What the model answers, which ``write`` gets as it comes.

        Raises:
            UserError: The conversation is too long for the model, or it takes no pictures. Nothing
                has been said then.
        """
        content = "<image>\n" * len(self._waiting) + text
        messages = [*self.messages, {"role": "user", "content": content}]
        images = (*self.images, *self._waiting)
        request = Request(f"turn-{len(messages)}", 0, messages, images, self.protocol.template)
        shortest = replace(self.protocol.sampling(""), max_new_tokens=1)
        opened = bool(self.engine.check([request], shortest).get("thinking"))
        shown = _Shown(write, self.thoughts, opened)
        try:
            found = self.engine.say(request, self.protocol.sampling(""), shown.add)
        except KeyboardInterrupt:
            found = Generation(request.id, 0, shown.text, "length", 0)
        shown.end()
        _, answer = split_thought(found.completion, opened)
        self.messages = [*messages, {"role": "assistant", "content": answer or found.completion}]
        self.images, self._waiting = images, ()
        return found


class _Shown:
    """The part of an answer that is to be seen, as it comes."""

    def __init__(self, write: Callable[[str], None], thoughts: Thoughts, opened: bool) -> None:
        self.text = ""
        self._write = write
        self._folded = thoughts == "folded"
        self._opened = opened
        self._written = 0

    def add(self, text: str) -> None:
        """Take what the model has written since."""
        self.text += text
        if not (self._folded and _PERHAPS_A_TAG.fullmatch(self.text)):
            self._catch_up()

    def end(self) -> None:
        """Show what was held back."""
        self._catch_up()

    def _catch_up(self) -> None:
        seen = split_thought(self.text, self._opened)[1] if self._folded else self.text
        if fresh := seen[self._written :]:
            self._write(fresh)
            self._written = len(seen)


def split_thought(completion: str, opened: bool) -> tuple[str, str]:
    """What a model thought, and what it then said; which is nothing while it thinks.

    Args:
        completion: What it wrote.
        opened: Whether the prompt has opened the thought.
    """
    begun = _OPENED.match(completion)
    if begun is None and not opened:
        return "", completion
    start = begun.end() if begun else 0
    closed = _CLOSED.search(completion, start)
    if closed is None:
        return completion[start:], ""
    return completion[start : closed.start()], completion[closed.end() :]


def _engine(model: str, url: str | None, key_variable: str | None) -> Engine:
    if url is None:
        if key_variable is not None:
            raise UserError("--key_variable: is of a server; give its --url")
        from wdl.generation.transformers_engine import TransformersEngine  # imports torch

        return TransformersEngine(model)
    from wdl.generation.openai_engine import OpenAIEngine

    return OpenAIEngine(model, Endpoint(url, model, key_variable, retries=1))


def _at_the_prompt(conversation: Conversation, model: str) -> None:
    with suppress(ImportError):
        import readline  # noqa: F401 (gives input() a history)

    print(f"{model}: /new begins anew, /image PATH shows a picture, Ctrl-D ends", file=sys.stderr)
    for line in _lines():
        command, _, rest = line.partition(" ")
        try:
            if command == "/new":
                conversation.begin()
            elif command == "/image":
                conversation.show(rest.strip())
            elif line:
                found = conversation.say(line, _write)
                print("" if found.finish_reason == "stop" else " [cut off]", flush=True)
        except (UserError, ChildFailure) as error:
            print(f"wdl: {error}", file=sys.stderr)
    print()


def _lines() -> Iterator[str]:
    """What is typed, until Ctrl-D or Ctrl-C."""
    while True:
        try:
            yield input(PROMPT).strip()
        except (EOFError, KeyboardInterrupt):
            return


def _answer_line(conversation: Conversation, number: int, line: bytes) -> None:
    try:
        text = line.decode().strip()
    except UnicodeDecodeError:
        raise UserError(f"line {number}: is no UTF-8 text; convert it") from None
    if not text:
        return
    try:
        found = conversation.say(text, _write)
    except (UserError, ChildFailure) as error:
        raise UserError(f"line {number}: {error}") from None
    print(flush=True)
    if found.finish_reason != "stop":
        print(f"wdl: line {number}: cut off", file=sys.stderr)


def _write(text: str) -> None:
    print(text.translate(_OBEYED) if sys.stdout.isatty() else text, end="", flush=True)
