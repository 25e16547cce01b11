"""The answers of one model to the problems of benchmarks: generated, graded, filed."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from wdl.data.encoding import end_of_turn
from wdl.errors import UserError
from wdl.evaluation.report import summarise
from wdl.evaluation.sources import ProblemSet
from wdl.generation.engine import Engine, Generation, Sampling
from wdl.generation.protocols import Protocol
from wdl.generation.requests import Request, check_context, render
from wdl.grading.grader import Grader, Task
from wdl.system.digests import model_digest, value_digest
from wdl.system.files import write_json, write_text
from wdl.system.journal import Journal, explain_difference

EngineOpener = Callable[[str, int], Engine]


@dataclass(frozen=True)
class Job:
    """The answers of one model to one benchmark."""

    label: str
    source: str
    problems: ProblemSet
    requests: list[Request]
    sampling: Sampling
    inputs: dict[str, Any]


def prepare(
    label: str,
    source: str,
    sets: Sequence[ProblemSet],
    protocol: Protocol,
    engine: dict[str, Any],
) -> list[Job]:
    """What a model has to answer; all that can be wrong with it is found here.

    Args:
        label: What results are filed under.
        source: Model folder or hub name.
        sets: The problems.
        protocol: How answers are generated.
        engine: What :func:`describe_engine` says of the engine.

    Raises:
        UserError: The model has no chat template, or not enough context for the protocol.
    """
    tokenizer = AutoTokenizer.from_pretrained(source)
    stop = stop_tokens(source, tokenizer)
    asked = render_all(label, source, sets, protocol, tokenizer)
    digest = model_digest(source)
    jobs = []
    for one, requests in zip(sets, asked, strict=True):
        new_tokens = protocol.new_tokens(one.benchmark.name)
        sampling = Sampling(new_tokens, protocol.temperature, protocol.top_p, protocol.seed, stop)
        inputs = {
            "model_sha256": digest,
            "data_sha256": one.digest,
            "prompt_sha256": value_digest([request.prompt for request in requests]),
            "protocol": protocol.as_dict(),
            "stop_tokens": list(stop),
            "engine": engine,
        }
        jobs.append(Job(label, source, one, requests, sampling, inputs))
    return jobs


def render_all(
    label: str,
    source: str,
    sets: Sequence[ProblemSet],
    protocol: Protocol,
    tokenizer: PreTrainedTokenizerBase,
) -> list[list[Request]]:
    """The requests of each of ``sets``; needs no weights.

    Raises:
        UserError: The model has no chat template, or not enough context for the protocol.
    """
    context = AutoConfig.from_pretrained(source).get_text_config().max_position_embeddings
    asked = []
    for one in sets:
        name = one.benchmark.name
        requests = render(tokenizer, one.problems, protocol)
        check_context(requests, protocol.new_tokens(name), context, f"{label} on {name}")
        asked.append(requests)
    return asked


def stop_tokens(source: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends an answer: those of the generation config, and the end of a turn.

    Base models are configured to end at the end of a text alone, which fine-tuned ones never
    write.
    """
    try:
        configured = GenerationConfig.from_pretrained(source).eos_token_id
    except OSError:  # the folder has none
        configured = tokenizer.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return tuple(sorted({end_of_turn(tokenizer), *(t for t in several if t is not None)}))


def run_jobs(
    jobs: Sequence[Job], out: Path, grader: Grader, open_engine: EngineOpener
) -> dict[str, Any]:
    """The results of one model by benchmark; what an earlier run has done is not done again.

    Args:
        jobs: All jobs of one model.
        out: Folder of the evaluation.
        grader: Grades the answers.
        open_engine: Starts the engine for a model and a length of context, if it is needed.

    Raises:
        UserError: ``out`` holds results or answers that were made in another way.
        ChildFailure: The engine crashed or hung. What it had finished is kept.
    """
    context = max(len(r.prompt) + job.sampling.max_new_tokens for job in jobs for r in job.requests)
    with ExitStack() as stack:

        @cache
        def engine() -> Engine:
            return stack.enter_context(closing(open_engine(jobs[0].source, context)))

        return {job.problems.benchmark.name: _run_job(job, out, grader, engine) for job in jobs}


def _run_job(job: Job, out: Path, grader: Grader, engine: Callable[[], Engine]) -> dict[str, Any]:
    record = out / job.label / f"{job.problems.benchmark.name}.json"
    journal_file = record.with_suffix(".journal.jsonl")
    inputs = job.inputs | {"grader": grader.describe()}
    result = _finished(record, inputs)
    if result is not None:
        print(f"{job.label} on {job.problems.benchmark.name}: graded already, in {record}")
    else:
        with Journal(journal_file, job.inputs) as journal:
            entries = _generate(job, journal, engine)
        answers = _grade(job, entries, grader)
        lines = [json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers]
        write_text(record.with_suffix(".jsonl"), "".join(lines))
        result = {"results": summarise(answers), "inputs": inputs}
        write_json(record, result)
    journal_file.unlink(missing_ok=True)
    return result


def _finished(record: Path, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """The record of an earlier run with the same inputs, if there is one."""
    if not record.is_file():
        return None
    earlier = json.loads(record.read_text())
    if earlier["inputs"] != inputs:
        raise UserError(f"{record}: {explain_difference(earlier['inputs'], inputs)}")
    return earlier


def _generate(job: Job, journal: Journal, engine: Callable[[], Engine]) -> list[dict[str, Any]]:
    """All answers of the job in the order of its requests, each in the journal by now."""
    entries = {(entry["id"], entry["sample"]): entry for entry in journal.entries}
    title = f"{job.label} on {job.problems.benchmark.name}"
    if len(entries) < len(job.requests):
        with tqdm(total=len(job.requests), initial=len(entries), desc=title, unit="answer") as bar:
            for ready in engine().generate(job.requests, job.sampling, set(entries)):
                written = [journal_entry(generation) for generation in ready]
                journal.append(written)
                entries |= {(entry["id"], entry["sample"]): entry for entry in written}
                bar.update(len(written))
    return [entries[request.key] for request in job.requests]


def journal_entry(generation: Generation) -> dict[str, Any]:
    """A generated answer as the journal keeps it."""
    return {
        "id": generation.id,
        "sample": generation.sample,
        "completion": generation.text,
        "finish_reason": generation.finish_reason,
        "new_tokens": len(generation.tokens),
    }


def _grade(job: Job, entries: list[dict[str, Any]], grader: Grader) -> list[dict[str, Any]]:
    """The answers with their grades, as they are filed."""
    benchmark = job.problems.benchmark
    problems = {problem.id: problem for problem in job.problems.problems}
    asked = [problems[entry["id"]] for entry in entries]
    grades = grader.grade(
        Task(
            kind=benchmark.kind,
            question=problem.question,
            reference=problem.reference,
            completion=entry["completion"],
            complete=entry["finish_reason"] == "stop",
            tolerance=benchmark.tolerance,
        )
        for problem, entry in zip(asked, entries, strict=True)
    )
    return [
        {
            "id": problem.id,
            "sample": entry["sample"],
            "question": problem.question,
            "reference": problem.reference,
            **asdict(grade),
            "finish_reason": entry["finish_reason"],
            "new_tokens": entry["new_tokens"],
            "completion": entry["completion"],
        }
        for problem, entry, grade in zip(asked, entries, grades, strict=True)
    ]
