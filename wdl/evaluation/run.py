r"""``wdl evaluate``: ask models the problems of benchmarks, grade the answers, write it all down.

For example

    wdl evaluate --model runs/demo/latest/strong --benchmarks gsm8k --data gsm8k_test.json \
        --protocol quick --out runs/graded

writes

    OUT/summary.json                   accuracy of every model on every benchmark, and all that
                                       decided about it; summary.csv and summary.svg are views
    OUT/MODEL/BENCHMARK.jsonl          every answer with its grade
    OUT/MODEL/BENCHMARK.json           the part of the summary on these answers
    OUT/MODEL/BENCHMARK.journal.jsonl  answers of a run that is not finished
"""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wdl.errors import UserError
from wdl.evaluation.report import print_results
from wdl.evaluation.sources import Sources, load_data, parse_models
from wdl.generation.engine import TRANSFORMERS, EngineName
from wdl.generation.protocols import find_protocol
from wdl.generation.vllm_options import VllmOptions
from wdl.grading.grader import Grader
from wdl.questions.benchmarks import find_benchmarks
from wdl.system.child import ChildFailure
from wdl.system.files import write_json
from wdl.system.outcome import leave_outcome
from wdl.system.sandbox import SandboxOptions


def evaluate(
    model: Sources,
    benchmarks: str,
    out: str,
    data: Sources | None = None,
    protocol: str = "paper",
    engine: EngineName = TRANSFORMERS,
    vllm: VllmOptions = VllmOptions(),  # noqa: B008 (frozen)
    regrade: bool = False,
    sandbox: SandboxOptions = SandboxOptions(),  # noqa: B008 (frozen)
) -> None:
    """Grade the answers of one or more models on benchmarks.

    A run that was killed goes on where it was when the same command is given again.

    Args:
        model: Hugging Face model folders, or names on the hub, separated by commas. Results are
            filed under the folder's name; LABEL=FOLDER chooses another label.
        benchmarks: Names separated by commas: aime2025, amc23, math500, aqua, gsm8k, mawps, svamp,
            arithmetic, sets of programs (see ``sandbox``), or YAML files that define others.
        out: Folder for summary.json and all answers.
        data: The benchmark's problems as .json, .jsonl or .parquet; NAME=FILE[,NAME=FILE...] for
            several benchmarks. Those without a file come from the hub.
        protocol: How answers are generated: paper (greedy, up to 4,096 or 8,192 new tokens),
            sampled (8 samples, temperature 0.6), quick (greedy, 256 new tokens), or a YAML file.
        engine: What generates: transformers for tiny models, vllm for all others, or a YAML file
            with the class_path and init_args of an engine of your own.
        vllm: Where vLLM is and what it may use.
        regrade: Judge the answers in ``out`` again where the grading rules have changed since;
            nothing is generated again.
        sandbox: How programs that answer the problems of humaneval, humanevalplus, mbpp, mbppplus,
            bigcodebench or livecodebench are run.
    """
    from wdl.evaluation.code import prepare_code
    from wdl.evaluation.figures import write_accuracies
    from wdl.evaluation.jobs import prepare, run_jobs
    from wdl.evaluation.views import write_csv
    from wdl.generation.engines import find_engine  # imports torch
    from wdl.grading.code import CodeGrader

    chosen = find_protocol(protocol)
    models = parse_models(model)
    sets = load_data(find_benchmarks(benchmarks), data)
    runs_code = prepare_code(sets, sandbox)
    make = find_engine(engine, vllm)
    engines, jobs, faults = {}, {}, list[str]()
    for label, source in models.items():
        try:
            engines[label] = make(source)
            jobs[label] = prepare(label, engines[label], sets, chosen)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(*faults)
    described = {label: engine.describe() for label, engine in engines.items()}
    results: dict[str, Any] = {}
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        grader = stack.enter_context(Grader())
        code_grader = stack.enter_context(CodeGrader(runs_code)) if runs_code else None
        for own in (one.benchmark.grader for one in sets if one.benchmark.grader is not None):
            stack.enter_context(own)
        for label in models:
            try:
                results[label] = run_jobs(
                    *(jobs[label], engines[label], described[label], Path(out), grader),
                    regrade,
                    code_grader,
                )
            except ChildFailure as failure:
                failures[label] = str(failure)
    summary = {"protocol": asdict(chosen), "sources": models, "models": results}
    write_json(Path(out) / "summary.json", summary | ({"failures": failures} if failures else {}))
    write_csv(summary, Path(out) / "summary.csv")
    write_accuracies(summary, Path(out) / "summary.svg")
    print_results(summary)
    found = {
        f"{benchmark}/{label}": record["results"]
        for label, of_model in results.items()
        for benchmark, record in of_model.items()
    }
    answers = sum(result["answers"] for result in found.values())
    leave_outcome({"answers": answers}, {name: one["accuracy"] for name, one in found.items()})
    print(f"all answers: {out}")
    if failures:
        kept = "finished answers are kept, the same command goes on from there"
        failed = (f"{label}: the engine failed ({why}); {kept}" for label, why in failures.items())
        raise UserError(*failed)
