"""A teacher's replies: each is in a journal before it is used, and none is asked for twice.

An entry of the journal is a reply, under the hash of its request.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from wdl.remote.client import Client
from wdl.remote.endpoint import Teacher, Usage
from wdl.remote.replies import Reply, find_object
from wdl.system.digests import value_digest
from wdl.system.journal import Journal

T = TypeVar("T")
Body = dict[str, Any]
Messages = list[dict[str, str]]
PROBE = [{"role": "user", "content": "Fill in the form, about anything."}]
AGAIN = "Reply with nothing but the JSON object, whole."


@dataclass(frozen=True)
class Form(Generic[T]):
    """What a teacher is to write.

    Args:
        name: Of the form.
        schema: JSON schema of the object.
        read: What an object says; raises ValueError, LookupError or TypeError if it is another.
    """

    name: str
    schema: dict[str, Any]
    read: Callable[[dict[str, Any]], T]

    def found_in(self, reply: Reply) -> T | None:
        """What the reply says, or None if it does not say it whole."""
        written = None if reply.fault else find_object(reply.text)
        try:
            return None if written is None else self.read(written)
        except (ValueError, LookupError, TypeError):
            return None


@dataclass(frozen=True)
class Unusable:
    """Why there is nothing to read, though the teacher was asked twice."""

    why: str


class TeacherClient:
    """Asks a teacher what it has not answered yet.

    Args:
        teacher: Where it is.
        journal: File of its replies, those of earlier runs included.

    Raises:
        UserError: An option is wrong, or the teacher's key is not there.
    """

    def __init__(self, teacher: Teacher, journal: Path) -> None:
        teacher.check()
        self.teacher = teacher
        self._path = journal

    @cached_property
    def _journal(self) -> Journal:
        return Journal(self._path, {"replies": 1})

    @cached_property
    def _replies(self) -> dict[str, Reply]:
        entries = self._journal.entries()
        found = (Reply(**{**entry, "usage": Usage(*entry["usage"])}) for entry in entries)
        return {str(reply.key): reply for reply in found}

    @property
    def spent(self) -> Usage:
        """Tokens of all replies, those of earlier runs included."""
        usages = [reply.usage for reply in self._replies.values()]
        return Usage(sum(one.prompt for one in usages), sum(one.completion for one in usages))

    def bill(self) -> dict[str, float]:
        """What the teacher has done so far: ``replies``, ``tokens`` and their ``cost``."""
        spent = self.spent
        cost = self.teacher.budget.cost_of(spent)
        return {"replies": len(self._replies), "tokens": sum(spent), "cost": cost}

    def body(self, messages: Messages, **fields: Any) -> Body:
        """A request for one reply."""
        return self.teacher.body(messages, max_tokens=self.teacher.max_tokens, **fields)

    def ask(self, bodies: Sequence[Body], title: str, number: int = 0) -> list[Reply]:
        """The replies to ``bodies``; shows progress.

        Args:
            bodies: Requests; equal ones get the same reply.
            title: What the progress is called.
            number: Another number asks the same requests anew.

        Raises:
            ChildFailure: The teacher does not answer. What it did is kept.
            UserError: It refuses the key, the budget is spent, or another process is writing to
                the journal.
        """
        keys = [value_digest([body, number]) for body in bodies]
        asked = dict(zip(keys, bodies, strict=True))
        missing = {key: body for key, body in asked.items() if key not in self._replies}
        if missing:
            client = Client(self.teacher, whole=True, spent=self.spent)
            done = len(asked) - len(missing)
            with (
                tqdm(total=len(asked), initial=done, desc=title, unit="reply") as bar,
                closing(client.ask(missing.items())) as batches,
            ):
                for batch in batches:
                    self._journal.append([asdict(reply) for reply in batch])
                    self._replies |= {str(reply.key): reply for reply in batch}
                    bar.update(len(batch))
        return [self._replies[key] for key in keys]

    def objects(
        self, asked: Sequence[Messages], form: Form[T], title: str, **fields: Any
    ) -> list[T | Unusable]:
        """What the teacher writes into ``form`` for each; what cannot be read is asked for again.

        Raises:
            ChildFailure, UserError: As of :meth:`ask`.
        """
        if asked and self.takes_schemas(form):
            fields["response_format"] = _response_format(form)
        first = self.ask([self.body(messages, **fields) for messages in asked], title)
        found = [form.found_in(reply) for reply in first]
        open_ones = [n for n, one in enumerate(found) if one is None and not first[n].refused]
        reminded = [self.body(_reminded(asked[n]), **fields) for n in open_ones]
        second = dict(zip(open_ones, self.ask(reminded, f"{title}, again"), strict=True))
        found = [form.found_in(second[n]) if n in second else one for n, one in enumerate(found)]
        return [
            one if one is not None else Unusable(second.get(n, first[n]).fault or "no such object")
            for n, one in enumerate(found)
        ]

    def takes_schemas(self, form: Form[Any]) -> bool:
        """Whether the server takes JSON schemas, seen by a request that no other depends on.

        Raises:
            ChildFailure, UserError: As of :meth:`ask`.
        """
        shaped = self.body(PROBE, response_format=_response_format(form))
        return not self.ask([shaped], "looking for JSON schemas")[0].refused

    def close(self) -> None:
        """Let go of the journal."""
        if "_journal" in self.__dict__:
            self._journal.close()


def _response_format(form: Form[Any]) -> dict[str, Any]:
    schema = {"name": form.name, "schema": form.schema, "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def _reminded(messages: Messages) -> Messages:
    last = messages[-1]
    return [*messages[:-1], {**last, "content": f"{last['content']}\n\n{AGAIN}"}]
