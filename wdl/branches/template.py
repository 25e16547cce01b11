"""The only place that talks to chat templates, and the one look at them that every verb takes.

A template is a program that somebody else wrote. What it does is tried out before anything is
trained, or asked, with it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, TemplateSyntaxError

from wdl.errors import UserError
from wdl.system.types import PreTrainedTokenizerBase

Message = Mapping[str, Any]
"""Role and content: a text, or a list of texts and pictures."""

_TAG = r"(<(?:\w+:)?(?:think|thinking|thought|reasoning)>|\[THINK\])"
OPEN_THOUGHT = re.compile(_TAG + r"(\s*)$")
"""The beginning of a thought at the end of a prompt, and the white space after it."""
_EMPTY_THOUGHT = re.compile(_TAG + r"\s*[<\[]/[\w:]+[>\]]")

PROBE = "Wdl: 3+4  is 7,\n\\boxed{7}."
"""A text that every tokenizer must be able to give back."""
QUESTION = {"role": "user", "content": "wdl question"}
_ANSWER = "wdl answer"


@dataclass(frozen=True)
class Template:
    """What a look at a tokenizer and its chat template shows.

    Args:
        end_token: Id of the token that ends an assistant's turn. Read off the template, because
            names differ (``<|im_end|>``, ``<end_of_turn>``, ``<|eot_id|>``) and the configured eos
            of base models is often another one (Qwen3 Base).
        opened: ``<think>``, or what it is called, if the generation prompt opens a thought, in
            which the text that a model writes then begins. Otherwise empty.
    """

    end_token: int
    opened: str


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    generation_prompt: bool = True,
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """A conversation as text, up to the point where the assistant answers, or to its end.

    Args:
        tokenizer: Whose template it is.
        messages: The conversation.
        generation_prompt: Whether the assistant is about to answer.
        arguments: The template's own, such as Qwen3's ``enable_thinking``.

    Raises:
        UserError: The template is broken, refuses the conversation, has no such argument, or
            leaves out what somebody other than the assistant says.
    """
    place = f"{tokenizer.name_or_path}: the chat template"
    try:
        if unknown := [name for name in arguments if name not in _arguments(tokenizer)]:
            raise UserError(
                f"{place} has no argument {', '.join(unknown)}; leave it out, or take a model "
                "whose template has it"
            )
        text = str(
            tokenizer.apply_chat_template(
                list(messages),  # type: ignore[arg-type]
                add_generation_prompt=generation_prompt,
                tokenize=False,
                **arguments,
            )
        )
    except UserError:
        raise
    except TemplateSyntaxError as error:
        raise UserError(
            f"{place} is broken in line {error.lineno} ({error.message}); mend it"
        ) from None
    except Exception as error:  # somebody else's program fails in any way
        roles = ", ".join(dict.fromkeys(message["role"] for message in messages))
        raise UserError(
            f"{place} refuses a conversation of {roles} ({error}); leave out what it refuses, or "
            "mend it"
        ) from None
    for role, said in ((message["role"], said) for message in messages for said in _said(message)):
        if role == "assistant" or said in text:
            continue
        if json.dumps(said, ensure_ascii=False)[1:-1] not in text:
            raise UserError(f"{place} leaves out what {role} says; leave that out, or mend it")
    return text


def _arguments(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Names that a template may read; jinja takes arguments of any other without a word."""
    tokens = Environment().lex(str(tokenizer.chat_template))
    return {value for _, kind, value in tokens if kind == "name"}


def _said(message: Message) -> list[str]:
    """The texts of a message."""
    parts = message["content"]
    texts = [parts] if isinstance(parts, str) else [part.get("text", "") for part in parts]
    return [text.strip() for text in texts]


def probe(tokenizer: PreTrainedTokenizerBase, vocabulary: int | None = None) -> Template:
    """Try out a tokenizer and its chat template, for a head of ``vocabulary`` rows.

    Raises:
        UserError: There is none, or what it makes of a text or of a conversation is not what
            training and asking take for granted.
    """
    place = tokenizer.name_or_path
    ids = tokenizer(PROBE, add_special_tokens=False).input_ids
    if not ids:
        raise UserError(f"{place}: holds no tokenizer; put tokenizer.json and its config into it")
    decoded = str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    if decoded.strip() != PROBE:
        raise UserError(
            f"{place}: the tokenizer makes {decoded!r} of {PROBE!r}, so its model could neither "
            "learn nor write that; choose another model"
        )
    if not tokenizer.chat_template:
        raise UserError(
            f"{place}: the tokenizer has no chat template; put a chat_template.jinja beside it "
            "(take the one of the instruct model of the same family)"
        )
    answer = {"role": "assistant", "content": _ANSWER}
    whole = render(tokenizer, [QUESTION, answer], generation_prompt=False)
    prompt = render(tokenizer, [QUESTION])
    before, found, after = whole.rpartition(_ANSWER)
    asked, answered = (
        OPEN_THOUGHT.sub("", _EMPTY_THOUGHT.sub("", text)).rstrip() for text in (prompt, before)
    )
    if not found or asked != answered:
        raise UserError(
            f"{place}: add_generation_prompt makes the chat template end in {prompt[-40:]!r}, but "
            f"answers come after {before[-40:]!r}; mend it"
        )
    end_token = _end_token(tokenizer, after)
    largest = max(*ids, *tokenizer(whole, add_special_tokens=False).input_ids, end_token)
    if vocabulary is not None and largest >= vocabulary:
        raise UserError(
            f"{place}: {tokenizer.convert_ids_to_tokens(largest)!r} is token {largest}, but the "
            f"model has {vocabulary} rows; give it the tokenizer that it was made with"
        )
    opened = OPEN_THOUGHT.search(prompt)
    return Template(end_token, opened[1] if opened else "")


def _end_token(tokenizer: PreTrainedTokenizerBase, after: str) -> int:
    """The first token behind an answer that is no ordinary text, or eos."""
    marks = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for token in tokenizer(after, add_special_tokens=False).input_ids:
        if token in marks and str(tokenizer.decode([token])).strip():
            return token
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{tokenizer.name_or_path}: neither the chat template nor an eos token says how an "
            "answer ends; set eos_token in tokenizer_config.json"
        )
    return tokenizer.eos_token_id
