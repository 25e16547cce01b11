"""From messages to tokens and the completion mask, the one way that all phases use.

The prompt is what the chat template renders with the generation prompt; the answer follows
verbatim; then exactly one end-of-turn token. Completion tokens are the answer and that token.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NotRequired, TypedDict, cast

from wdl.branches.template import OPEN_THOUGHT, Message, probe, render
from wdl.branches.vision import IMAGE, ImageError, Vision, image_bytes, open_image, with_parts
from wdl.constants import PAPER_SYSTEM_PROMPT
from wdl.data.records import OnBadRow
from wdl.data.rows import Faults, RowError, warn_of_rows
from wdl.data.schemas import Record
from wdl.errors import UserError
from wdl.system.types import PreTrainedTokenizerBase

RECORD = ("place", "messages", "completion", "thought", "images")
"""Columns that a sample is made from; all others of a record stay."""


class Encoded(TypedDict):
    """Tokens of one sample; the completion is everything from ``prompt_length`` on.

    ``images`` are the files of its pictures, in order, and ``image_sha256`` what they hold.
    """

    input_ids: list[int]
    prompt_length: int
    images: NotRequired[list[str]]
    image_sha256: NotRequired[list[str]]


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> list[int]:
    """Tokens of the conversation up to where the assistant answers; ``arguments`` as in render."""
    return _tokens(tokenizer, [render(tokenizer, messages, arguments=arguments)])[0]


def encode_batch(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str]], end_token: int
) -> list[Encoded]:
    """Tokens of samples, of the texts that :func:`compose` makes of each."""
    prompts = _tokens(tokenizer, [prompt for prompt, _ in texts])
    answers = _tokens(tokenizer, [answer for _, answer in texts])
    return [
        {"input_ids": [*prompt, *answer, end_token], "prompt_length": len(prompt)}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def compose(
    tokenizer: PreTrainedTokenizerBase,
    record: Record,
    end_token: int,
    system_prompt: str | None = None,
) -> tuple[str, str]:
    """Prompt and answer of a sample, as texts.

    The answer is verbatim: no template touches it, so a ``<think>`` block stays. But a thought
    that the prompt opens is not opened again, and one beside the text is put where the template
    puts it.

    Raises:
        UserError: The chat template refuses the conversation.
        RowError: The template does not render the thought, or the answer lacks one.
    """
    messages = with_system_prompt(record["messages"], system_prompt)
    if record["images"]:
        messages = list(with_parts(messages))
    prompt, answer = render(tokenizer, messages), record["completion"]
    if thought := record["thought"]:
        turn = {"role": "assistant", "content": answer, "reasoning_content": thought}
        whole = render(tokenizer, [*messages, turn], generation_prompt=False)
        parts, end = [thought.strip(), answer.strip()], str(tokenizer.decode([end_token]))
        answer, _, _ = whole.removeprefix(prompt).rpartition(end)
        if not whole.startswith(prompt) or not all(part in answer for part in parts):
            raise RowError(
                "the chat template does not render the thought beside the answer "
                "(reasoning_content); write it into the content, as <think>...</think>"
            )
    return prompt, _within_thought(prompt, answer)


def _within_thought(prompt: str, answer: str) -> str:
    """The answer, without the beginning of a thought if the prompt ends in it."""
    opened = OPEN_THOUGHT.search(prompt)
    if opened is None:
        return answer
    tag, space = opened.groups()
    if answer.lstrip().startswith(tag):
        answer = answer.lstrip().removeprefix(tag).removeprefix(space)
    closing = f"{tag[0]}/{tag[1:]}"
    if closing not in answer:
        raise RowError(
            f"the chat template begins each answer with {tag}, and this one never closes it; put "
            f"a thought and {closing} before it, or take a template that leaves {tag} to the model"
        )
    return answer


def encode_records(
    records: dict[str, list[Any]],
    tokenizer: PreTrainedTokenizerBase,
    end_token: int,
    system_prompt: str | None,
    vocabulary: int,
    on_bad_row: OnBadRow,
    vision: Vision | None = None,
) -> dict[str, list[Any]]:
    """The samples of some records, with the columns that these have beside their texts.

    Raises:
        UserError: One line for each record that cannot be encoded; unless these are skipped.
    """
    faults, texts = Faults(), {}
    for number, row in enumerate(zip(*records.values(), strict=True)):
        record = dict(zip(records, row, strict=True))
        try:
            if vision is None and record["images"]:
                raise RowError("the model takes no pictures; choose a vision-language model")
            texts[number] = compose(tokenizer, cast(Record, record), end_token, system_prompt)
        except (RowError, UserError) as fault:
            faults.append(f"{record['place']}: {fault}")
    encoded = encode_batch(tokenizer, list(texts.values()), end_token)
    kept: dict[int, Encoded] = {}
    for number, sample in zip(texts, encoded, strict=True):
        try:
            if vision is not None:
                images = records["images"][number]
                sample = _with_images(sample, texts[number][0], images, vision)
            if (largest := max(sample["input_ids"])) >= vocabulary:
                token = tokenizer.convert_ids_to_tokens(largest)
                raise RowError(f"the model has no row for {token!r}; drop it")
            kept[number] = sample
        except (RowError, ImageError) as fault:
            faults.append(f"{records['place'][number]}: {fault}")
    if faults and on_bad_row == "error":
        raise faults.error()
    warn_of_rows(faults, faults.total)
    samples = kept.values()
    prompts = [sample["input_ids"][: sample["prompt_length"]] for sample in samples]
    if system_prompt is not None:  # on which it must not depend what is held out
        prompts = [encode_prompt(tokenizer, records["messages"][number]) for number in kept]
    # nor on the order of pictures, or what is judged in both orders would stand on both sides
    seen = [sorted(sample.get("image_sha256", [])) for sample in samples]
    added = ("images", "image_sha256") if vision is not None else ()
    return {
        **{name: [records[name][n] for n in kept] for name in records if name not in RECORD},
        "input_ids": [sample["input_ids"] for sample in samples],
        "prompt_length": [sample["prompt_length"] for sample in samples],
        "length": [len(sample["input_ids"]) for sample in samples],
        "prompt_hash": [_hash([*p, *images]) for p, images in zip(prompts, seen, strict=True)],
        **{name: [cast(dict, sample)[name] for sample in samples] for name in added},
    }


def _with_images(sample: Encoded, prompt: str, images: Sequence[str], vision: Vision) -> Encoded:
    """The sample with as many tokens for each picture as the model makes of it."""
    tokens, start = sample["input_ids"], sample["prompt_length"]
    if vision.image_token in (tokens[start:] if images else tokens):
        token = vision.tokenizer.convert_ids_to_tokens(vision.image_token)
        raise RowError(f"a text says {token}, which stands for a picture; drop it")
    if not images and IMAGE in prompt:
        raise RowError(f"a text says {IMAGE} and the row has no images; give them, or drop it")
    data = [image_bytes(file) for file in images]
    if images:
        pictures = [open_image(Path(file), part) for file, part in zip(images, data, strict=True)]
        asked = vision.tokens(prompt, pictures)
        tokens, start = [*asked, *tokens[start:]], len(asked)
    return {
        "input_ids": tokens,
        "prompt_length": start,
        "images": list(images),
        "image_sha256": [hashlib.sha256(part).hexdigest() for part in data],
    }


def _hash(asked: list[int | str]) -> float:
    """A number in [0, 1) that depends on ``asked`` alone."""
    return int(hashlib.sha256(str(asked).encode()).hexdigest()[:12], 16) / 16**12


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False).input_ids if texts else []


def with_system_prompt(messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
    """The conversation, begun with a system message unless it has one of its own.

    Args:
        messages: The conversation.
        system_prompt: The message's text, ``paper`` for the paper's, or None to leave all as is.
    """
    if system_prompt is None or messages[0]["role"] == "system":
        return list(messages)
    text = PAPER_SYSTEM_PROMPT if system_prompt == "paper" else system_prompt
    return [{"role": "system", "content": text}, *messages]


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the token that ends an assistant's turn, see :func:`wdl.branches.template.probe`."""
    return probe(tokenizer).end_token
