r"""``wdl sample``: n attempts of a model at each question of a pool.

    wdl sample --model runs/demo/latest/strong --pool configs/tiny/train.jsonl --n 8 \
        --max_new_tokens 128 --out round-1/samples.jsonl

Attempts are in a journal as soon as they are there, so that a killed run makes only what is
missing. How an attempt is drawn follows from the seed, the question and its number; give each round
a seed of its own.
"""

from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from wdl.config.paths import InputPath, ModelSource
from wdl.constants import PAPER_SYSTEM_PROMPT
from wdl.generation.engine import TRANSFORMERS, EngineName
from wdl.generation.journalled import answer
from wdl.generation.protocols import Protocol
from wdl.generation.vllm_options import VllmOptions
from wdl.questions.problems import Problem
from wdl.rounds.attempts import Attempt
from wdl.rounds.output import Output
from wdl.rounds.pool import read_pool
from wdl.system.child import resumable
from wdl.system.digests import value_digest
from wdl.system.journal import Journal
from wdl.system.outcome import leave_outcome


def sample(
    model: ModelSource,
    pool: InputPath,
    out: str,
    n: int = 8,
    engine: EngineName = TRANSFORMERS,
    vllm: VllmOptions = VllmOptions(),  # noqa: B008 (frozen)
    max_new_tokens: int = 1024,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 42,
    system_prompt: str | None = None,
) -> None:
    """Write the attempts of a model at the questions of a pool.

    Args:
        model: Hugging Face model folder, or name on the hub.
        pool: Questions as .json, .jsonl or .parquet, from `wdl next-pool` or of your own.
        out: File to write, .jsonl: one attempt per line.
        n: Attempts at each question.
        engine: What generates: transformers for tiny models, vllm for all others, or a YAML file
            with the class_path and init_args of an engine of your own.
        vllm: Where vLLM is and what it may use.
        max_new_tokens: Where an attempt is cut off.
        temperature: Of the distribution that tokens are drawn from; 0 is greedy, with n = 1.
        top_p: Nucleus that they are drawn from; 1 is the whole distribution.
        seed: Seeds the drawing.
        system_prompt: First message of each conversation, as the model is trained with; paper for
            the paper's.
    """
    from wdl.generation.engines import find_engine  # imports torch

    questions = {one.id: one for one in read_pool(Path(pool))}
    protocol = Protocol(
        name="sample",
        max_new_tokens=max_new_tokens,
        system_prompt=PAPER_SYSTEM_PROMPT if system_prompt == "paper" else system_prompt,
        samples=n,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    asked = [Problem(one.id, one.question, one.answer, one.images) for one in questions.values()]
    requests, sampling = protocol.requests(asked), protocol.sampling("")
    with closing(find_engine(engine, vllm)(model)) as made:
        checked = made.check(requests, sampling)
        pool_sha256 = value_digest([[one.id, one.reference] for one in asked])
        key = {"pool_sha256": pool_sha256, "protocol": asdict(protocol), **checked}
        output = Output(Path(out), made.describe() | key)
        summary = output.earlier()
        if summary is None:
            with Journal(output.journal, output.key) as journal, resumable("the engine"):
                entries = answer(made, requests, sampling, journal, "sample")
            attempts = [
                Attempt(
                    id=request.id,
                    attempt=request.sample,
                    messages=request.messages,
                    answer=questions[request.id].answer,
                    completion=entry["completion"],
                    finish_reason=entry["finish_reason"],
                    new_tokens=entry["new_tokens"],
                    thinking=checked.get("thinking", False),
                    images=questions[request.id].images,
                    item=questions[request.id].item,
                )
                for request, entry in zip(requests, entries, strict=True)
            ]
            summary = {
                "questions": len(questions),
                "attempts": len(attempts),
                "new_tokens": sum(one.new_tokens for one in attempts),
                "cut_off": sum(one.finish_reason == "length" for one in attempts),
            }
            output.write((one.row() for one in attempts), summary)
    print(
        f"{out}: {summary['attempts']} attempts at {summary['questions']} questions, "
        f"{summary['new_tokens']} tokens, {summary['cut_off']} cut off"
    )
    leave_outcome(
        {"attempts": summary["attempts"], "tokens": summary["new_tokens"]},
        {"cut_off": summary["cut_off"] / summary["attempts"]},
    )
