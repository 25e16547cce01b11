"""The sets of problems that models are graded on.

The paper's seven maths sets, two of logic, the embedded default's arithmetic, and your own: YAML
files with the fields of :class:`Benchmark`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wdl.config.definitions import read_definition
from wdl.config.paths import InputPath
from wdl.errors import UserError
from wdl.grading.grader import BaseGrader, Kind


@dataclass(frozen=True)
class Benchmark:
    """A set of problems and how its answers are compared.

    Args:
        name: What results call it.
        kind: ``number`` compares values, ``expression`` mathematical objects (math-verify),
            ``letter`` choices, also when their value is given instead, ``code`` runs programs
            against tests.
        rows: How many problems it has; another number is refused. Null for any.
        tolerance: Largest difference between equal numbers.
        path: JSON, JSON Lines or Parquet file, relative to the YAML file that names it.
        hub: Name on the hub, if there is no file.
        configs: Configurations of the set on the hub, read one after the other.
        split: Split of the set on the hub.
        examples: File of worked examples, which protocols with ``shots`` show; as ``path``.
        examples_split: Split of the set on the hub that holds them, if there is no file.
        repeats: Whether the set, as it was published, has ids and options that occur twice. Then a
            second row of an id gets "-2" behind it, and equal options stay; otherwise both are
            refused.
        grader: ``class_path`` and ``init_args`` of a grader of your own; null for the rules of
            this project.
    """

    name: str
    kind: Kind = "expression"
    rows: int | None = None
    tolerance: float = 0.0
    path: InputPath | None = None
    hub: str | None = None
    configs: tuple[str, ...] = ("default",)
    split: str = "test"
    examples: InputPath | None = None
    examples_split: str | None = None
    repeats: bool = False
    grader: BaseGrader | None = None


# Rounded references are common in sets of word problems.
_word_problems = partial(Benchmark, kind="number", tolerance=1e-3)
# Four ids and seven options of its test set occur twice.
_logiqa = partial(Benchmark, kind="letter", repeats=True)
_code = partial(Benchmark, kind="code")
_AIME = ("AIME2025-I", "AIME2025-II")

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("aime2025", rows=30, hub="opencompass/AIME2025", configs=_AIME),
        Benchmark("amc23", rows=40, hub="math-ai/amc23"),
        Benchmark("math500", rows=500, hub="HuggingFaceH4/MATH-500"),
        Benchmark(
            *("aqua", "letter", 254),
            hub="deepmind/aqua_rat",
            configs=("raw",),
            examples_split="train",
        ),
        _word_problems(
            "gsm8k", rows=1319, hub="openai/gsm8k", configs=("main",), examples_split="train"
        ),
        _word_problems("mawps", rows=238),
        _word_problems("svamp", rows=1000, hub="ChilleD/SVAMP", split="train+test"),
        _logiqa("logiqa2", rows=1572, hub="baber/logiqa2", configs=("logiqa2",)),
        # the test split has no public answers
        Benchmark("reclor", "letter", rows=500, hub="tasksource/reclor", split="validation"),
        Benchmark("arithmetic", "number"),
        _code("humaneval", rows=164, hub="openai/openai_humaneval", configs=("openai_humaneval",)),
        _code("humanevalplus", rows=164, hub="evalplus/humanevalplus"),
        _code("mbpp", rows=500, hub="google-research-datasets/mbpp", configs=("full",)),
        _code("mbppplus", rows=378, hub="evalplus/mbppplus"),
        _code("bigcodebench", rows=1140, hub="bigcode/bigcodebench", split="v0.1.4"),
        # the problems since January 2025, under the name that needs no script to load it
        _code("livecodebench", rows=175, hub="lighteval/code_generation_lite", configs=("v6",)),
    )
}


def find_benchmarks(names: str) -> list[Benchmark]:
    """The benchmarks of a comma-separated list of names and YAML files.

    Raises:
        UserError: A name is unknown or occurs twice, or a YAML file cannot be used.
    """
    found: list[Benchmark] = []
    for name in filter(None, map(str.strip, names.split(","))):
        if Path(name).suffix in (".yaml", ".yml"):
            found.append(read_definition(Path(name), Benchmark))
        elif name in BENCHMARKS:
            found.append(BENCHMARKS[name])
        else:
            known = ", ".join(BENCHMARKS)
            raise UserError(f"--benchmarks {name}: choose from {known}, or give a YAML file")
    if not found:
        raise UserError("--benchmarks: name at least one")
    if len({benchmark.name for benchmark in found}) < len(found):
        raise UserError(f"--benchmarks {names}: a name occurs twice; results are filed by name")
    return found
