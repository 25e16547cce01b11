"""What a row of instruction data says: a conversation and the answer that is trained.

A row has exactly one of four schemas:

    {"instruction": "...", "output": "..."}            optional "input"
    {"prompt": "...", "completion": "..."}
    {"messages": [{"role": "user", "content": "..."}, ..., {"role": "assistant", ...}]}
    {"conversations": [{"from": "human", "value": "..."}, ..., {"from": "gpt", ...}]}

each with an optional integer "idx"; rows without are numbered in their order, around the numbers
that others bring. Pictures are read as :mod:`wdl.data.images` says. Also read are "system" and
"history" ([[question, answer], ...]) of a row, and "reasoning_content" (or another of
``THOUGHTS``) of the last message. A row with none of these keys may have a "problem" and its
"solution"; beside them, as in NuminaMath's rows, the two mean nothing.

The last message is trained and no other, because a template renders earlier ones otherwise than a
model writes them (Qwen3's drops their thoughts); several rows train several answers. A "weight" or
"train" that asks for something else is refused.

Any other key is harmless, such as the "info" of AM-DeepSeek-R1-Distilled's messages, unless it is
one of ``SWITCHES`` or looks like something to train with: a word of its name is in ``MEANT``, none
in ``HARMLESS``, and it holds more than numbers. Such a key is refused. A key without a value counts
for nothing, and so does one that says again what a message says.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict

from wdl.data.images import check_marks, take_images
from wdl.data.rows import RowError

ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "observation": "tool"}
SCHEMAS = {"instruction": "output", "prompt": "completion", "messages": "", "conversations": ""}
"""Key of the question, and of the answer if that is another one."""
PROBLEM = {"problem": "solution"}
"""The same of a row that fits none of these."""
MESSAGE = ("role", "content", "from", "value")
SIDES = ("chosen", "rejected")
"""What marks a row of preferences, see :mod:`wdl.data.preference_schemas`."""
SYSTEMS = ("system", "system_prompt")
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought")
WEIGHTS = ("weight", "train", "training", "loss")
"""What says of a message whether it is trained; the first two also of a row."""
SWITCHES = re.compile("weights|.*_weight|.*mask|.*thinking|chat_template.*|train_on_.*")
MEANT = re.compile(
    "system|history|tools?|functions?|reasoning|think(ing)?|thoughts?|images?|videos?|audios?|"
    "contexts?|documents?"
)
HARMLESS = re.compile("ids?|type|name|source|model|category|language|hash|fingerprint|count")


class Record(TypedDict):
    """One sample before it is encoded: what is asked, the answer, and a thought beside its text.

    ``images`` are what stands for ``<image>`` in the messages: files, once they have been found.
    """

    messages: list[dict[str, str]]
    completion: str
    thought: str
    images: list[Any]


class EmptyAnswerError(RowError):
    """The row is sound but its answer is empty, as a few are in most public data sets."""


def parse_row(row: Any) -> Record:
    """One row of any schema as a record.

    Raises:
        RowError: The row fits no schema or two, a field is missing, empty or of the wrong type, or
            a key that means something is not read.
    """
    if not isinstance(row, dict):
        raise RowError(f"a row is an object, this is {kind_of(row)}; write {{...}}")
    if all(has(row, side) for side in SIDES):
        raise RowError(
            "the row holds preferences (chosen and rejected answers), which this does not train; "
            "take dpo.yaml, or --model wdl.training.preference.PreferenceModule --data "
            "wdl.data.preference.PreferenceDataModule, or drop both keys"
        )
    row, images = take_images(row)
    schema, thought = _schema(row), ""
    read = {"idx", schema, *SYSTEMS, *WEIGHTS[:2]}
    if answer_key := {**SCHEMAS, **PROBLEM}[schema]:
        read |= {"input", "history", answer_key}
        turns = question_at(row, schema)
        turns.append({"role": "assistant", "content": answer_at(row, answer_key)})
    else:
        turns, thought = turns_of(row[schema], schema)
    turns = with_system(row, turns)
    check_weight(row, WEIGHTS[:2], is_answer=True)
    refuse_unread(row, read, [turn["content"].strip() for turn in turns])
    *messages, answer = turns
    check_marks(messages, [answer["content"], thought], images)
    return {
        "messages": messages,
        "completion": answer["content"],
        "thought": thought,
        "images": images,
    }


def _schema(row: dict[str, Any]) -> str:
    """The key of the question, of the schema that the row fits or at least begins."""
    fitting = [q for q, a in SCHEMAS.items() if has(row, q) and has(row, a or q)]
    if len(fitting) > 1:
        raise RowError(f"the row fits several schemas, {' and '.join(fitting)}; keep one of them")
    begun = [q for q in SCHEMAS if has(row, q)] or [q for q in SCHEMAS if q in row]
    for schema in fitting or begun or [q for q in PROBLEM if has(row, q)]:
        return schema
    raise RowError(
        f"the row has none of {', '.join([*SCHEMAS, *PROBLEM])}; it has "
        f"{', '.join(map(repr, row)) or 'no key'}"
    )


def has(row: Mapping[str, Any], key: str) -> bool:
    """Whether there is something at ``key``."""
    value = row.get(key)
    return bool(value.strip()) if isinstance(value, str) else value not in (None, [], {})


def question_at(row: dict[str, Any], key: str) -> list[dict[str, str]]:
    """What is asked in the text at ``key``, with "input" and after "history"."""
    keys = (key, "input") if has(row, "input") else (key,)
    question = "\n\n".join(text_at(row, key) for key in keys)
    texts = [*(text for pair in _history(row) for text in pair), question]
    return [
        {"role": "assistant" if number % 2 else "user", "content": text}
        for number, text in enumerate(texts)
    ]


def with_system(row: dict[str, Any], turns: list[dict[str, str]]) -> list[dict[str, str]]:
    """A conversation with the system message of its row."""
    for key in filter(partial(has, row), SYSTEMS):
        if turns[0]["role"] != "system":
            turns = [{"role": "system", "content": text_at(row, key)}, *turns]
        elif turns[0]["content"] != row[key]:
            raise RowError(f"{key!r} and a system message say different things; keep one")
    return turns


def _history(row: dict[str, Any]) -> list[list[str]]:
    pairs = row["history"] if has(row, "history") else []
    if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        raise RowError("history must be a list of [question, answer]")
    return [[text_at({"history": text}, "history") for text in pair] for pair in pairs]


def text_at(row: Mapping[str, Any], key: str) -> str:
    """The text at ``key``.

    Raises:
        RowError: There is none, or it is empty.
    """
    value = row.get(key)
    if not isinstance(value, str):
        raise RowError(f"{key!r} is {kind_of(value)}; give it a text")
    if not value.strip():
        raise RowError(f"{key!r} is empty; fill it in or drop the row")
    return encodable(value, key)


def encodable(text: str, key: str) -> str:
    """The text at ``key``.

    Raises:
        RowError: It is no Unicode, and could not be written.
    """
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        raise RowError(f"{key!r} holds half a surrogate pair; mend or drop the row")
    return text


def answer_at(row: Mapping[str, Any], key: str) -> str:
    """The same of an answer, which it is no fault to leave empty.

    Raises:
        EmptyAnswerError: It is empty.
    """
    answer = row.get(key)
    if isinstance(answer, str) and not answer.strip():
        raise EmptyAnswerError(f"{key!r} is empty; fill it in or drop the row")
    return text_at(row, key)


def turns_of(
    messages: Any, schema: str, least: int = 2, answered: bool = True
) -> tuple[list[dict[str, str]], str]:
    """The messages as templates know them, and the thought beside the last one.

    Args:
        messages: What the row holds at ``schema``.
        schema: The key.
        least: How many messages there must be.
        answered: Whether the last message is an answer that is trained, or is still to be answered.

    Raises:
        RowError: A message is none, or says what is not read.
    """
    if not isinstance(messages, list) or len(messages) < least:
        wanted = "at least a question and an answer" if least > 1 else "messages"
        raise RowError(f"{schema} must be a list of {wanted}")
    if not all(isinstance(message, dict) for message in messages):
        raise RowError("each message must be an object with role and content")
    turns, thought = [], ""
    for number, message in enumerate(messages, start=1):
        is_answer = answered and number == len(messages)
        try:
            check_weight(message, WEIGHTS, is_answer=is_answer)
            refuse_unread(message, {*MESSAGE, *WEIGHTS, *(THOUGHTS if is_answer else ())})
            turn = _turn(message, is_answer)
            if is_answer:
                thought = _thought(message, turn["content"])
        except RowError as fault:
            raise type(fault)(f"message {number}: {fault}") from None
        turns.append(turn)
    if answered and turns[-1]["role"] != "assistant":
        raise RowError("the last message must be the assistant's; drop what follows it")
    if not answered and turns[-1]["role"] == "assistant":
        raise RowError(f"{schema} ends with the assistant's message; end it with a question")
    return turns, thought


def _turn(message: dict[str, Any], is_answer: bool) -> dict[str, str]:
    role_key, text_key = ("from", "value") if "from" in message else ("role", "content")
    role = text_at(message, role_key)
    role = SHAREGPT_ROLES.get(role, role)
    if role not in ROLES:
        raise RowError(f"role {role!r} is unknown; use one of {', '.join(ROLES)}")
    return {"role": role, "content": (answer_at if is_answer else text_at)(message, text_key)}


def _thought(message: dict[str, Any], text: str) -> str:
    """What stands beside the text of an answer, and not in it."""
    keys = [key for key in THOUGHTS if has(message, key)]
    found = {thought for key in keys if (thought := text_at(message, key)).strip() not in text}
    if len(found) > 1 or (found and "<think>" in text):
        raise RowError(f"{' and '.join(map(repr, keys))} hold a second thought; keep one")
    return found.pop() if found else ""


def check_weight(row: dict[str, Any], keys: Sequence[str], is_answer: bool) -> None:
    """Refuse what asks for another message to be trained than the answer."""
    for key in keys:
        weight = row.get(key)
        if weight is not None and weight != is_answer:
            raise RowError(
                f"{key!r} is {weight!r}, but of a row exactly the last message is "
                "trained; end the row with the message to train, without other weights"
            )


def refuse_unread(
    row: Mapping[str, Any],
    read: Collection[str],
    said: Sequence[str] = (),
    meant: Collection[str] = (*SCHEMAS, *SCHEMAS.values(), "input"),
) -> None:
    """Refuse keys that are not read but seem to mean something, or are in ``meant``."""
    for key, value in row.items():
        is_said = isinstance(value, str) and value.strip() in said
        if key in read or is_said or not has(row, key):
            continue
        words = [word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", key)]
        looks_meant = any(map(MEANT.fullmatch, words)) and not any(map(HARMLESS.fullmatch, words))
        is_meant = looks_meant and '"' in json.dumps(value, default=str)
        if is_meant or SWITCHES.fullmatch(key) or key in meant:
            raise RowError(
                f"{key!r} is not read, and may change what is trained; put what it says into the "
                "conversation, or drop it"
            )


def kind_of(value: Any) -> str:
    """What JSON calls a value, for a fault."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return "missing" if value is None else names.get(type(value), "a number")
