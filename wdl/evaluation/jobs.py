"""The answers of one model to the problems of benchmarks: generated, graded, filed."""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from wdl.errors import UserError
from wdl.evaluation.report import summarise
from wdl.evaluation.sources import ProblemSet
from wdl.generation.cache import AnswerCache
from wdl.generation.engine import Engine, Request, Sampling
from wdl.generation.journalled import answer
from wdl.generation.protocols import Protocol
from wdl.grading.grader import BaseGrader, Task, grades_by
from wdl.system.child import ChildFailure
from wdl.system.digests import value_digest
from wdl.system.files import write_json, write_lines
from wdl.system.journal import Journal, refuse_other


@dataclass(frozen=True)
class Job:
    """The answers of one model to one benchmark; ``inputs`` is what decides about them."""

    label: str
    problems: ProblemSet
    requests: list[Request]
    sampling: Sampling
    inputs: dict[str, Any]


def prepare(
    label: str, engine: Engine, sets: Sequence[ProblemSet], protocol: Protocol
) -> list[Job]:
    """What a model has to answer; needs no weights.

    Raises:
        UserError: The engine cannot answer them.
    """
    jobs = []
    for one in sets:
        name = one.benchmark.name
        sampling = protocol.sampling(name)
        try:
            asked = replace(one, problems=protocol.subset(one.problems))
            shown = protocol.shown(one.examples, one.problems)
            requests = protocol.requests(asked.problems, shown)
            checked = engine.check(requests, sampling)
        except UserError as error:
            raise UserError(*(f"{label} on {name}: {fault}" for fault in error.faults)) from None
        inputs = {"data_sha256": asked.digest, "protocol": protocol.describe(), **checked}
        if len(asked.problems) < len(one.problems):
            inputs["subset"] = {"problems": len(asked.problems), "of": len(one.problems)}
        if shown:
            inputs["examples_sha256"] = value_digest([asdict(example) for example in shown])
        jobs.append(Job(label, asked, requests, sampling, inputs))
    return jobs


def run_jobs(
    jobs: Sequence[Job],
    engine: Engine,
    described: dict[str, Any],
    out: Path,
    grader: BaseGrader,
    regrade: bool = False,
    cache: AnswerCache | None = None,
    code_grader: BaseGrader | None = None,
) -> dict[str, Any]:
    """The results of one model by benchmark; what an earlier run has done is not done again.

    The engine, which has ``described`` itself, is closed at the end. A benchmark's own grader goes
    before ``code_grader``, for programs, and ``grader``. With ``regrade``, answers that another
    grader has judged are judged again. What is in ``cache`` is not generated, and what is generated
    goes there.

    Raises:
        UserError: ``out`` holds results or answers that were made in another way.
        ChildFailure: The engine crashed or hung, or the grader did, which is said. What they had
            finished is kept.
    """

    def grader_of(job: Job) -> BaseGrader:
        benchmark = job.problems.benchmark
        runs = code_grader if benchmark.kind == "code" else None
        return benchmark.grader or runs or grader

    with closing(engine):
        found = {}
        for job in jobs:
            whole = replace(job, inputs=described | job.inputs)
            generate = partial(
                answer, engine, job.requests, job.sampling, cache=cache, described=described
            )
            found[job.problems.benchmark.name] = _run_job(
                whole, generate, out, grader_of(job), regrade
            )
        return found


def _run_job(
    job: Job, generate: Callable[..., Any], out: Path, grader: BaseGrader, regrade: bool
) -> dict[str, Any]:
    record = out / job.label / f"{job.problems.benchmark.name}.json"
    journal_file, answers_file = (record.with_suffix(f".{x}") for x in ("journal.jsonl", "jsonl"))
    inputs = job.inputs | {"grader": grader.describe()}
    earlier = json.loads(record.read_text()) if record.is_file() else None
    if earlier is not None:
        regrade = regrade and earlier["inputs"]["grader"] != inputs["grader"]
        graded_by = inputs if regrade else earlier["inputs"]
        refuse_other(record, earlier["inputs"] | {"grader": graded_by["grader"]}, inputs)
        if not regrade:
            journal_file.unlink(missing_ok=True)  # of a kill behind the record
            print(f"{job.label} on {job.problems.benchmark.name}: graded already, in {record}")
            return earlier
        with answers_file.open(encoding="utf-8") as lines:
            entries = [json.loads(line) for line in lines]
    else:
        with Journal(journal_file, job.inputs) as journal:
            title = f"{job.label} on {job.problems.benchmark.name}"
            try:
                entries = generate(journal=journal, title=title)
            except ChildFailure as failure:
                raise ChildFailure(f"the engine failed ({failure})") from failure
    answers, judged = _grade(job, entries, grader)
    write_lines(answers_file, (json.dumps(answer, ensure_ascii=False) for answer in answers))
    result = {
        "results": summarise(answers, votes=job.problems.benchmark.kind != "code"),
        "inputs": inputs,
        **({"judge": judged} if judged else {}),
    }
    write_json(record, result)
    journal_file.unlink(missing_ok=True)
    return result


def _grade(
    job: Job, entries: list[dict[str, Any]], grader: BaseGrader
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The answers with their grades, as they are filed, and what the grader says beside them."""
    benchmark = job.problems.benchmark
    problems = {problem.id: problem for problem in job.problems.problems}
    asked = [problems[entry["id"]] for entry in entries]
    tasks = [
        Task(
            kind=benchmark.kind,
            question=problem.question,
            reference=problem.reference,
            completion=entry["completion"],
            complete=entry["finish_reason"] == "stop",
            tolerance=benchmark.tolerance,
            thinking=job.inputs.get("thinking", False),
            tests=problem.tests,
        )
        for problem, entry in zip(asked, entries, strict=True)
    ]
    try:
        grades = grades_by(grader, tasks)
    except ChildFailure as failure:
        raise ChildFailure(f"the grader failed ({failure})") from failure
    answers = [
        {
            "id": problem.id,
            "sample": entry["sample"],
            "question": problem.question,
            "reference": problem.reference,
            **asdict(grade),
            "finish_reason": entry["finish_reason"],
            "new_tokens": entry["new_tokens"],
            "completion": entry["completion"],
            **({"images": list(problem.images)} if problem.images else {}),
            **({} if problem.item is None else {"item": problem.item}),
        }
        for problem, entry, grade in zip(asked, entries, grades, strict=True)
    ]
    return answers, grader.report(tasks, grades)
