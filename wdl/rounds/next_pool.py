"""``wdl next-pool``: what the next round asks, after what became of this one's questions.

    wdl next-pool --pool pool.jsonl --graded round-1/graded.jsonl --enhance arithmetic \
        --contamination heldout.jsonl --out round-2/pool.jsonl

A question has failed if one of its graded attempts was wrong, and is solved if all were right. The
next pool holds the failed ones, some of the solved, and enhanced ones, which were made from failed
ones. Questions that were all right, or all wrong, for several rounds rest: they leave the pool.
Questions without a graded attempt stay as they are.

An enhanced question that the pool holds already is left out, whether to the letter or nearly so:
with the same numbers and half of its runs of 8 words. So is any question that shares half of these
with one of a file that models are evaluated on.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from jsonargparse.typing import register_type

from wdl.config.paths import InputPath, InputPaths
from wdl.errors import UserError
from wdl.rounds.attempts import Attempt, by_question, read_graded, statistics, told
from wdl.rounds.output import Output
from wdl.rounds.pool import Question, question_id, read_pool, refuse_pictures, refuse_strangers
from wdl.rounds.similar import Texts
from wdl.system.digests import files_digest, lot
from wdl.system.outcome import leave_outcome
from wdl.tiny.arithmetic import like

ARITHMETIC = "arithmetic"
DRAWS = 100
"""How often another problem is drawn in place of one that is left out."""


class Enhancer(str):
    """``arithmetic``, or a file of questions."""


def _enhancer(value: str) -> Enhancer:
    """A path that is absolute, but a name as it is, which must not be taken for a file."""
    return Enhancer(value if value == ARITHMETIC else os.path.abspath(os.path.expanduser(value)))


register_type(Enhancer, serializer=str, deserializer=_enhancer)


def next_pool(
    pool: InputPath,
    graded: InputPath,
    out: str,
    enhance: Enhancer | None = None,
    replay_failed: float = 1.0,
    replay_solved: float = 0.2,
    cap: int | None = None,
    rest_after: int | None = 3,
    contamination: InputPaths | None = None,
    seed: int = 42,
) -> None:
    """Write the pool of the next round.

    Args:
        pool: The questions of this round.
        graded: This round's attempts at them, as `wdl grade` writes them.
        out: File to write, .jsonl.
        enhance: Where enhanced questions come from: arithmetic, which makes a sum like each failed
            one, or a file of questions with answers, each with the id of its parent if it has one.
        replay_failed: Share of the failed questions that are asked again, drawn by lot.
        replay_solved: Share of the solved ones.
        cap: Most questions; the solved ones go first, then enhanced ones, by lot.
        rest_after: Rounds in a row that were all right, or all wrong, after which a question rests;
            null for never.
        contamination: Files of problems that models are evaluated on, separated by commas; their
            answers need not be there.
        seed: Seeds the lots and what arithmetic makes; give each round its own.
    """
    faults = {
        f"--replay_failed {replay_failed}: it lies in [0, 1]": not 0 <= replay_failed <= 1,
        f"--replay_solved {replay_solved}: it lies in [0, 1]": not 0 <= replay_solved <= 1,
        f"--cap {cap}: it is at least 1": cap is not None and cap < 1,
        f"--rest_after {rest_after}: it is at least 1": rest_after is not None and rest_after < 1,
    }
    if found := [text for text, wrong in faults.items() if wrong]:
        raise UserError(*found)
    questions = read_pool(Path(pool))
    refuse_pictures(questions, f"--pool {pool}")
    attempts, digests = read_graded([Path(graded)])
    refuse_strangers(questions, attempts, f"--graded {graded}", pool)
    from_file = enhance is not None and enhance != ARITHMETIC
    written = read_pool(Path(str(enhance)), may_be_empty=True) if from_file else None
    evaluated_on = contamination.paths if contamination else []
    tests = Texts(one.question for file in evaluated_on for one in read_pool(file, asked=False))
    rules = Rules(replay_failed, replay_solved, cap, rest_after, seed)
    key = {
        "pool_sha256": files_digest([Path(pool)]),
        "graded_sha256": digests,
        "enhance": enhance if written is None else files_digest([Path(str(enhance))]),
        "contamination_sha256": [files_digest([file]) for file in evaluated_on],
        **asdict(rules),
    }
    output = Output(Path(out), key)
    summary = output.earlier()
    if summary is None:
        renewed, left_out = renew(
            questions, attempts, rules, tests, enhance if written is None else written
        )
        if not renewed:
            why = ", ".join(f"{number} {reason}" for reason, number in left_out.items())
            raise UserError(f"--pool {pool}: no question is left to ask ({why})")
        summary = {
            "results": statistics(attempts),
            "questions": len(renewed),
            "origins": Counter(one.origin for one in renewed),
            "left_out": left_out,
        }
        output.write((one.row() for one in renewed), summary)
    print(told(summary["results"]))
    origins, gone = (
        ", ".join(f"{number} {name}" for name, number in summary[part].items())
        for part in ("origins", "left_out")
    )
    print(f"{out}: {summary['questions']} questions: {origins}; left out: {gone or 'none'}")
    leave_outcome(
        {"questions": summary["questions"]}, {**summary["origins"], **summary["left_out"]}
    )


@dataclass(frozen=True)
class Rules:
    """What decides which questions stay; see :func:`next_pool`."""

    replay_failed: float
    replay_solved: float
    cap: int | None
    rest_after: int | None
    seed: int

    def drawn(self, questions: Sequence[Question], number: int) -> list[Question]:
        """So many of them, by lot."""
        return sorted(questions, key=lambda one: lot(self.seed, "pool", one.id))[:number]


def renew(
    questions: Sequence[Question],
    attempts: Sequence[Attempt],
    rules: Rules,
    tests: Texts,
    enhance: Sequence[Question] | str | None,
) -> tuple[list[Question], Counter[str]]:
    """The next pool, and how many questions were left out, by why.

    Args:
        questions: This round's.
        attempts: At them, graded.
        rules: Which stay.
        tests: What no question may be like.
        enhance: Enhanced questions, or :data:`ARITHMETIC`, or None.

    Raises:
        UserError: No failed question is one of arithmetic's.
    """
    left_out: Counter[str] = Counter()
    groups = by_question(attempts)
    now: dict[str, list[Question]] = {"failed": [], "solved": [], "open": []}
    for question in questions:
        verdicts = [one.verdict for one in groups.get(question.id, [])]
        after = _after(question, verdicts.count("right"), verdicts.count("wrong"))
        if question.question in tests:
            left_out["contaminated"] += 1
        elif rules.rest_after is not None and abs(after.streak) >= rules.rest_after:
            left_out["resting"] += 1
        elif "wrong" in verdicts:
            now["failed"].append(after)
        else:
            now["solved" if "right" in verdicts else "open"].append(after)
    known = Texts((one.question for one in questions), with_numbers=True)
    enhanced: list[Question] = []
    for one in _candidates(enhance, questions, now["failed"], rules.seed, (known, tests)):
        if one.question in known or one.question in tests:
            left_out["duplicate" if one.question in known else "contaminated"] += 1
        else:
            known.add(one.question)
            enhanced.append(one)
    failed = rules.drawn(now["failed"], round(rules.replay_failed * len(now["failed"])))
    solved = rules.drawn(now["solved"], round(rules.replay_solved * len(now["solved"])))
    left_out["not replayed"] = len(now["failed"] + now["solved"]) - len(failed + solved)
    chosen: set[str] = set()
    for part in (failed + now["open"], enhanced, solved):
        room = len(part) if rules.cap is None else rules.cap - len(chosen)
        taken = rules.drawn(part, room)
        left_out["over the cap"] += len(part) - len(taken)
        chosen |= {one.id for one in taken}
    every = {one.id: one for part in now.values() for one in part}
    replayed = [every[one.id] for one in questions if one.id in chosen]
    return [*replayed, *(one for one in enhanced if one.id in chosen)], +left_out


def _after(question: Question, right: int, wrong: int) -> Question:
    """The question with what this round adds to its counts."""
    if not right + wrong:
        return question
    before = question.streak
    streak = max(before, 0) + 1 if not wrong else min(before, 0) - 1 if not right else 0
    return replace(
        question,
        origin="replay",
        attempts=question.attempts + right + wrong,
        solved=question.solved + right,
        streak=streak,
    )


def _candidates(
    enhance: Sequence[Question] | str | None,
    questions: Sequence[Question],
    failed: Sequence[Question],
    seed: int,
    avoid: Sequence[Texts],
) -> Iterator[Question]:
    """Enhanced questions, each the child of one of ``questions`` where that is known."""
    if isinstance(enhance, str):
        yield from _sums(failed, seed, avoid)
        return
    generations = {one.id: one.generation for one in questions}
    for one in enhance or ():
        generation = generations.get(one.parent or "", 0) + 1
        yield replace(one, origin="enhanced", generation=generation)


def _sums(failed: Sequence[Question], seed: int, avoid: Sequence[Texts]) -> Iterator[Question]:
    """For each failed question one of the same kind, which none of ``avoid`` holds."""
    found = False
    for parent in failed:
        draw = random.Random(f"{seed}/{parent.id}")
        for _ in range(DRAWS):
            row = like(parent.question, draw)
            if row is None:
                break
            found = True
            text, answer = row["instruction"], row["answer"]
            if not any(text in texts for texts in avoid):
                identity = question_id(text)
                yield Question(identity, text, answer, "enhanced", parent.id, parent.generation + 1)
                break
    if failed and not found:
        raise UserError(
            f"--enhance {ARITHMETIC}: it makes sums such as 'Compute 58*7-97.', and no failed "
            "question is one; give a file of enhanced questions"
        )
