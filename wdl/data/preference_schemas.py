"""What a row of preference data says: a question, and answers of which some are better.

The answers stand at "chosen" and "rejected", in one of these ways:

    "..."                                              an answer
    ["...", "...", ...]                                several; each chosen one beats each rejected
    {"role": "assistant", "content": "..."}            a message, or a list of just one
    [{"role": "user", ...}, ..., {"role": "assistant", ...}]   the whole conversation, on both sides

The question, unless the conversation says it, stands at one of these keys:

    "prompt", "question" or "instruction"              a text, optional "input" and "history"
    "prompt", "messages" or "conversations"            a list of messages, up to the question

So the files of TRL, of LLaMA-Factory ("ranking": true) and UltraFeedback are read as they are.
"idx", "system", thoughts beside messages and all other keys count as in :mod:`wdl.data.schemas`.
"""

from typing import Any

from wdl.data.images import check_marks, take_images
from wdl.data.rows import RowError
from wdl.data.schemas import (
    SCHEMAS,
    SIDES,
    SYSTEMS,
    WEIGHTS,
    EmptyAnswerError,
    Record,
    answer_at,
    check_weight,
    has,
    kind_of,
    question_at,
    refuse_unread,
    turns_of,
    with_system,
)

QUESTIONS = ("prompt", "question", "instruction", "messages", "conversations")
MEANT = (*QUESTIONS, *SCHEMAS.values(), "input")

Turns = list[dict[str, str]]


class Answer(Record):
    """One of the answers to a question, and whether it is one of the better ones."""

    chosen: bool


def parse_preferences(row: Any) -> list[Answer]:
    """The answers of a row, chosen ones first; all have the same messages before them.

    Raises:
        RowError: The row compares nothing, an answer stands on both sides, a field is missing,
            empty or of the wrong type, or a key that means something is not read.
    """
    if not isinstance(row, dict):
        raise RowError(f"a row is an object, this is {kind_of(row)}; write {{...}}")
    if not any(side in row for side in SIDES):
        raise RowError(
            f"the row has no chosen and rejected answers, only {', '.join(map(repr, row))}; for "
            "instruction data take sft.yaml or joint.yaml instead of dpo.yaml, or --model "
            "wdl.training.weak_driven.WeakDrivenModule --model.lam 1 "
            "--data wdl.data.weak_driven.WeakDrivenDataModule --data.selection.weights uniform"
        )
    row, images = take_images(row)
    (before, chosen), (other, rejected) = (_side(row, side) for side in SIDES)
    if before != other:
        raise RowError("chosen and rejected answer different conversations; let both begin alike")
    if {(text.strip(), thought.strip()) for text, thought in chosen} & {
        (text.strip(), thought.strip()) for text, thought in rejected
    }:
        raise RowError("the same answer is chosen and rejected; mend or drop the row")
    turns, read = (before, _said_again(row)) if before else _question(row)
    turns = with_system(row, turns)
    check_weight(row, WEIGHTS[:2], is_answer=True)
    texts = [turn["content"] for turn in turns] + [text for text, _ in chosen + rejected]
    check_marks(turns, [part for answer in chosen + rejected for part in answer], images)
    read |= {"idx", *SIDES, *SYSTEMS, *WEIGHTS[:2]}
    refuse_unread(row, read, [text.strip() for text in texts], MEANT)
    return [
        {
            "messages": turns,
            "completion": text,
            "thought": thought,
            "images": images,
            "chosen": is_chosen,
        }
        for is_chosen, answers in ((True, chosen), (False, rejected))
        for text, thought in answers
    ]


def _side(row: dict[str, Any], side: str) -> tuple[Turns, list[tuple[str, str]]]:
    """The conversation that stands before the answers, if any does; their texts and thoughts."""
    value = row.get(side)
    if value == []:
        raise EmptyAnswerError(f"{side!r} holds no answer; give it one or drop the row")
    messages = [value] if isinstance(value, dict) else value
    if isinstance(messages, list) and any(isinstance(message, dict) for message in messages):
        try:
            turns, thought = turns_of(messages, side, least=1)
        except RowError as fault:
            raise type(fault)(f"{side!r}: {fault}") from None
        return turns[:-1], [(turns[-1]["content"], thought)]
    texts = value if isinstance(value, list) else [value]
    return [], [(answer_at({side: text}, side), "") for text in texts]


def _question(row: dict[str, Any]) -> tuple[Turns, set[str]]:
    """The conversation up to the question, and the keys that it is read from."""
    for key in [k for k in QUESTIONS if has(row, k)] or [k for k in QUESTIONS if k in row]:
        if isinstance(row[key], list):
            return turns_of(row[key], key, least=1, answered=False)[0], {key}
        return question_at(row, key), {key, "input", "history"}
    raise RowError(
        f"the row has no question; put it into one of {', '.join(QUESTIONS)}, or as a message "
        "before each answer"
    )


def _said_again(row: dict[str, Any]) -> set[str]:
    """Keys with a conversation, or the beginning of one, that the answers bring along."""
    lists = {key: row[key] for key in QUESTIONS if isinstance(row.get(key), list)}
    return {key for key, turns in lists.items() if turns == row["chosen"][: len(turns)]}
