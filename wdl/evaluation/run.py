r"""``wdl evaluate``: ask models the problems of benchmarks, grade the answers, write it all down.

For example

    wdl evaluate --model runs/demo/latest/strong --benchmarks gsm8k --data gsm8k_test.json \
        --protocol quick --out runs/graded

writes

    OUT/summary.json                   accuracy of every model on every benchmark, and all that
                                       decided about it; summary.csv and summary.svg are views
    OUT/report.html                    all of it to look through in a browser
    OUT/MODEL/BENCHMARK.jsonl          every answer with its grade
    OUT/MODEL/BENCHMARK.json           the part of the summary on these answers
    OUT/MODEL/BENCHMARK.journal.jsonl  answers of a run that is not finished
"""

from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from wdl.config.paths import InputPath
from wdl.errors import UserError
from wdl.evaluation.report import print_results
from wdl.evaluation.sources import Sources, load_data, parse_models
from wdl.generation.engine import TRANSFORMERS, EngineName
from wdl.generation.protocols import Protocol, find_protocol
from wdl.generation.vllm_options import VllmOptions
from wdl.grading.graders import GRADERS
from wdl.grading.judges import RULES, JudgeName, find_client, find_grader
from wdl.questions.benchmarks import find_benchmarks
from wdl.remote.endpoint import Teacher, bill_line
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
    limit: int | None = None,
    shots: int | None = None,
    examples: Sources | None = None,
    thinking: bool | None = None,
    cache: InputPath | None = None,
    sandbox: SandboxOptions = SandboxOptions(),  # noqa: B008 (frozen)
    by: JudgeName = RULES,
    teacher: Teacher | None = None,
) -> None:
    """Grade the answers of one or more models on benchmarks.

    A run that was killed goes on where it was when the same command is given again.

    Args:
        model: Hugging Face model folders, or names on the hub, separated by commas. Results are
            filed under the folder's name; LABEL=FOLDER chooses another label.
        benchmarks: Names separated by commas: aime2025, amc23, math500, aqua, gsm8k, mawps, svamp,
            logiqa2, reclor, arithmetic, sets of programs (see ``sandbox``), or YAML files that
            define others.
        out: Folder for summary.json and all answers.
        data: The benchmark's problems as .json, .jsonl or .parquet; NAME=FILE[,NAME=FILE...] for
            several benchmarks. Those without a file come from the hub.
        protocol: How answers are generated: paper (greedy, up to 4,096 or 8,192 new tokens),
            sampled (8 samples, temperature 0.6), quick (greedy, 256 new tokens), upstream and
            upstream-sampled (judged as by the paper's published code), or a YAML file.
        engine: What generates: transformers for tiny models, vllm for all others, or a YAML file
            with the class_path and init_args of an engine of your own.
        vllm: Where vLLM is and what it may use.
        regrade: Judge the answers in ``out`` again where the grading rules have changed since;
            nothing is generated again.
        limit: Ask so many problems of each benchmark, drawn by the protocol's seed; their results
            are never compared with those of the whole. Null asks as many as the protocol says.
        shots: Show so many worked examples before each question; null shows as many as the
            protocol says.
        examples: Where they are: rows as in ``data``, with solutions. Those without a file come
            from the benchmark's own.
        thinking: Whether the chat template lets the model think (its ``enable_thinking``); null
            leaves that to the protocol, and in the end to the template.
        cache: File of answers that runs share, created if it is not there: what any of them has
            generated, by the same weights, engine and settings, is not generated again.
        sandbox: How programs that answer the problems of humaneval, humanevalplus, mbpp, mbppplus,
            bigcodebench or livecodebench are run.
        by: What judges: rules, those of the protocol; teacher, a model that is asked about each
            answer; rules_then_teacher, which asks it where rules cannot tell; or a YAML file with
            the class_path and init_args of a grader of your own.
        teacher: Where the teacher is. Its replies are kept in OUT/teacher.jsonl.
    """
    from wdl.evaluation.code import prepare_code
    from wdl.evaluation.compare import compare_with_first
    from wdl.evaluation.figures import write_accuracies
    from wdl.evaluation.jobs import prepare, run_jobs
    from wdl.evaluation.judged import agreements, check_judge, reach
    from wdl.evaluation.page import Results, write_page
    from wdl.evaluation.views import write_csv
    from wdl.generation.cache import AnswerCache
    from wdl.generation.engines import find_engine  # imports torch
    from wdl.grading.code import CodeGrader

    chosen = _changed(find_protocol(protocol), limit, shots, thinking)
    models = parse_models(model)
    sets = load_data(find_benchmarks(benchmarks), data, chosen.shots, examples)
    check_judge(by, sets, chosen)
    client = find_client(by, teacher, Path(out) / "teacher.jsonl")
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
        if client is not None:
            reach(stack.enter_context(closing(client)))
        judge = GRADERS[chosen.grader]() if by == RULES else find_grader(by, client)
        grader = stack.enter_context(judge)
        code_grader = stack.enter_context(CodeGrader(runs_code)) if runs_code else None
        kept = None if cache is None else stack.enter_context(closing(AnswerCache(Path(cache))))
        for own in (one.benchmark.grader for one in sets if one.benchmark.grader is not None):
            stack.enter_context(own)
        for label in models:
            try:
                results[label] = run_jobs(
                    *(jobs[label], engines[label], described[label], Path(out), grader),
                    *(regrade, kept, code_grader),
                )
            except ChildFailure as failure:
                failures[label] = str(failure)
        bill = {} if client is None else client.bill()
    summary = {"protocol": chosen.describe(), "sources": models, "models": results}
    beside = {"failures": failures, "teacher": bill}
    write_json(
        Path(out) / "summary.json", summary | {key: one for key, one in beside.items() if one}
    )
    write_csv(summary, Path(out) / "summary.csv")
    write_accuracies(summary, Path(out) / "summary.svg")
    folders = {label: Path(out) / label for label in results}
    compared, notes = compare_with_first(folders, [one.benchmark.name for one in sets])
    notes += [f"{label}: {why}" for label, why in failures.items()]
    agree = agreements(results)
    notes += agree
    write_page(Results(folders, results, compared, notes), Path(out) / "report.html")
    print_results(summary)
    for job in next(iter(jobs.values())):
        if part := job.inputs.get("subset"):
            print(
                f"{job.problems.benchmark.name}: {part['problems']} of {part['of']} problems "
                f"(limit {chosen.limit}, seed {chosen.seed}), to be compared with these alone"
            )
    for line in agree + ([bill_line(bill)] if bill else []):
        print(line)
    found = {
        f"{benchmark}/{label}": record["results"]
        for label, of_model in results.items()
        for benchmark, record in of_model.items()
    }
    answers = sum(result["answers"] for result in found.values())
    leave_outcome(
        {"answers": answers, **bill}, {name: one["accuracy"] for name, one in found.items()}
    )
    print(f"all answers: {out}\nto look through: {Path(out) / 'report.html'}")
    if failures:
        go_on = "finished answers are kept, the same command goes on from there"
        failed = (f"{label}: {why}; {go_on}" for label, why in failures.items())
        raise UserError(*failed)


def _changed(
    protocol: Protocol, limit: int | None, shots: int | None, thinking: bool | None
) -> Protocol:
    """The protocol with what the options say."""
    options: dict[str, Any] = {"limit": limit, "shots": shots}
    if thinking is not None:
        options["template"] = protocol.template | {"enable_thinking": thinking}
    given = {name: value for name, value in options.items() if value is not None}
    return replace(protocol, **given)
