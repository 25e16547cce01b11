"""Real vLLM on the embedded pair, started twice: its answers, its death, and the whole command.

Its interpreter is .venv-vllm/bin/python, which ``make test`` sets up, or that of WDL_VLLM_PYTHON.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, REPOSITORY

from wdl.cli import main
from wdl.config.paths import InputPath
from wdl.evaluation.jobs import prepare
from wdl.evaluation.sources import ProblemSet
from wdl.generation.engine import Generation, Request, Sampling
from wdl.generation.protocols import PROTOCOLS
from wdl.generation.transformers_engine import TransformersEngine
from wdl.generation.vllm_engine import VllmEngine
from wdl.generation.vllm_options import VllmOptions
from wdl.questions.benchmarks import BENCHMARKS
from wdl.questions.problems import load_problems
from wdl.system.child import ChildFailure
from wdl.system.journal import Journal

INTERPRETER = Path(os.environ.get("WDL_VLLM_PYTHON", REPOSITORY / ".venv-vllm/bin/python"))
STRONG = CONFIGS / "tiny" / "strong"
HELDOUT = CONFIGS / "tiny" / "heldout.jsonl"
OPTIONS = VllmOptions(python=InputPath(INTERPRETER.absolute()))
QUICK = PROTOCOLS["quick"]
GREEDY = QUICK.sampling("arithmetic")
CLOSE = 1e-3
# The tests' folder changes, and the variable may hold a relative path.
REAL = Path(os.environ.get("WDL_BENCHMARK_DATA", "nowhere")).absolute() / "amc23.json"


@pytest.fixture(scope="module")
def transformers() -> TransformersEngine:
    return TransformersEngine(str(STRONG))


@pytest.fixture(scope="module")
def vllm() -> Iterator[VllmEngine]:
    engine = VllmEngine(str(STRONG), OPTIONS)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    return QUICK.requests(load_problems(BENCHMARKS["arithmetic"], HELDOUT)[:64])


def problem_set(file: Path, name: str) -> ProblemSet:
    return ProblemSet(BENCHMARKS[name], load_problems(BENCHMARKS[name], file))


def collect(parts: Iterator[list[Generation]]) -> dict[tuple[str, int], Generation]:
    return {(one.id, one.sample): one for part in parts for one in part}


def gap_where_they_part(
    engine: TransformersEngine, request: Request, one: str, other: str
) -> float:
    """Between the logits of the two likeliest tokens, where two answers first differ."""
    (prompt,) = engine.prompts([request], GREEDY)
    left, right = (
        engine.tokenizer(text, add_special_tokens=False).input_ids for text in (one, other)
    )
    pairs = enumerate(zip(left, right, strict=False))
    place = next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))
    with torch.no_grad():
        logits = engine.model(torch.tensor([prompt.tokens + left[:place]])).logits[0, -1]
    first, second = logits.topk(2).values.tolist()
    return first - second


def test_both_engines_read_the_same(vllm: VllmEngine, transformers: TransformersEngine) -> None:
    requests = QUICK.requests(load_problems(BENCHMARKS["arithmetic"], HELDOUT))
    assert vllm.check(requests, GREEDY) == transformers.check(requests, GREEDY)


def test_both_engines_give_the_same_answers(
    vllm: VllmEngine, transformers: TransformersEngine, requests: list[Request]
) -> None:
    theirs = collect(vllm.generate(requests, GREEDY))
    ours = collect(transformers.generate(requests, GREEDY))
    assert theirs.keys() == ours.keys()
    for request in requests:
        one, other = ours[request.key], theirs[request.key]
        if one != other:
            gap = gap_where_they_part(transformers, request, one.completion, other.completion)
            assert gap < CLOSE


def test_samples_have_seeds_of_their_own(vllm: VllmEngine, requests: list[Request]) -> None:
    sampling = Sampling(32, 2.0, 1.0, 42)
    first = requests[0]
    several = [Request(first.id, sample, first.messages) for sample in range(8)]
    answers = collect(vllm.generate(several, sampling))
    assert len({answer.completion for answer in answers.values()}) > 1
    alone = collect(vllm.generate(several, sampling, done={r.key for r in several[1:]}))
    assert alone[first.id, 0] == answers[first.id, 0]


def test_more_seeded_prompts_than_one_step_reads(vllm: VllmEngine, requests: list[Request]) -> None:
    """On CPU vLLM dies of a seeded prompt that it reads in two parts, unless told not to."""
    several = [Request(one.id, sample, one.messages) for one in requests for sample in range(8)]
    answers = collect(vllm.generate(several, Sampling(2, 1.0, 1.0, 42)))
    assert answers.keys() == {request.key for request in several}


def test_a_killed_engine_is_reported_and_keeps_what_was_finished(
    vllm: VllmEngine, requests: list[Request]
) -> None:
    """The last to use this engine."""
    finished = 0
    with pytest.raises(ChildFailure, match="killed by SIGKILL"):
        for part in vllm.generate(requests, GREEDY):
            finished += len(part)
            os.kill(vllm._children[0]._process.pid, 9)
    assert finished >= 1


@pytest.mark.parametrize(
    ("name", "file"),
    [
        pytest.param(
            "amc23",
            REAL,
            marks=pytest.mark.skipif(not REAL.is_file(), reason="WDL_BENCHMARK_DATA has no amc23"),
        ),
        pytest.param(
            "arithmetic",
            HELDOUT,
            marks=pytest.mark.skipif(REAL.is_file(), reason="amc23 is there instead"),
        ),
    ],
)
def test_the_command_goes_on_from_a_journal(
    name: str, file: Path, transformers: TransformersEngine
) -> None:
    """All of a benchmark, of which a killed run had answered a part."""
    out = Path("out")
    engine = VllmEngine(str(STRONG), OPTIONS)
    (job,) = prepare("strong", engine, [problem_set(file, name)], QUICK)
    earlier = job.requests[::4]
    inputs = engine.describe() | job.inputs
    with Journal(out / "strong" / f"{name}.journal.jsonl", inputs) as journal:
        for part in transformers.generate(earlier, job.sampling):
            journal.append([asdict(generation) for generation in part])
    main(
        [
            *("evaluate", "--model", f"strong={STRONG}", "--benchmarks", name, "--data", str(file)),
            *("--protocol", "quick", "--out", str(out)),
            *("--engine", "vllm", "--vllm.python", str(INTERPRETER)),
        ]
    )
    lines = (out / "strong" / f"{name}.jsonl").read_text().splitlines()
    answers = {answer["id"]: answer for answer in map(json.loads, lines)}
    assert list(answers) == [request.id for request in job.requests]
    kept = collect(transformers.generate(earlier, job.sampling))
    assert all(answers[id_]["completion"] == kept[id_, 0].completion for id_, _ in kept)
    record = json.loads((out / "strong" / f"{name}.json").read_text())
    assert record["inputs"]["engine"]["name"] == "vllm"
    assert record["results"]["answers"] == len(job.requests)
