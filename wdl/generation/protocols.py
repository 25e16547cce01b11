"""How answers are generated: named, versioned protocols.

A result carries its protocol whole, so that numbers under different protocols are never compared
by accident. A protocol of your own is a YAML file with the fields of :class:`Protocol`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from wdl.config.definitions import read_definition
from wdl.constants import PAPER_SYSTEM_PROMPT
from wdl.errors import UserError
from wdl.generation.engine import Request, Sampling
from wdl.questions.examples import Example
from wdl.questions.problems import Problem
from wdl.system.digests import lot


@dataclass(frozen=True)
class Protocol:
    """Everything that decides how a model is asked and how it answers.

    Thinking is as the chat template has it by default, which is on for Qwen3, unless ``template``
    says otherwise.

    Args:
        name: What results call it.
        version: Raised whenever a field of a published protocol changes.
        max_new_tokens: Longest answer, in tokens.
        max_new_tokens_of: Longer answers for some benchmarks, by their name.
        system_prompt: First message of each conversation; null sends none.
        samples: Answers per problem.
        temperature: 0 is greedy decoding.
        top_p: Nucleus that samples are drawn from; 1 is the whole distribution.
        seed: Seeds the drawing of samples, of the problems of a ``limit`` and of examples.
        limit: Most problems of each benchmark, drawn by ``seed`` so that those of a smaller limit
            are among those of a larger one; null for all.
        shots: Worked examples that are shown before each question, the same for all.
        template: Arguments of the chat template, such as Qwen3's {"enable_thinking": false}.
        grader: What judges the answers to benchmarks without a grader of their own: ``rules`` of
            this project, or ``upstream``, as the paper's published code does.
    """

    name: str
    version: int = 1
    max_new_tokens: int = 4096
    max_new_tokens_of: dict[str, int] = field(default_factory=dict)
    system_prompt: str | None = None
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 42
    limit: int | None = None
    shots: int = 0
    template: dict[str, Any] = field(default_factory=dict)
    grader: Literal["rules", "upstream"] = "rules"

    def __post_init__(self) -> None:
        equal = f"{self.samples} samples at temperature 0 are all equal; raise the temperature"
        shortest = min(self.max_new_tokens, *self.max_new_tokens_of.values(), 1)
        faults = {
            f"samples is {self.samples}; ask for at least 1": self.samples < 1,
            f"temperature is {self.temperature}; it is at least 0": self.temperature < 0,
            f"top_p is {self.top_p}; it lies in (0, 1]": not 0 < self.top_p <= 1,
            equal: self.samples > 1 and self.temperature == 0,
            "max_new_tokens must be at least 1": shortest < 1,
            f"limit is {self.limit}; ask at least 1 problem": self.limit is not None
            and self.limit < 1,
            f"shots is {self.shots}; it is at least 0": self.shots < 0,
        }
        if found := [text for text, wrong in faults.items() if wrong]:
            raise UserError(*(f"protocol {self.name}: {text}" for text in found))

    def describe(self) -> dict[str, Any]:
        """All fields, for the record.

        Those that protocols had not at first are left out while they change nothing, so that
        earlier results stay comparable.
        """
        every = asdict(self)
        return {name: value for name, value in every.items() if value != _LATER.get(name, ...)}

    def subset(self, problems: Sequence[Problem]) -> list[Problem]:
        """Those that are asked, in their order; the orders of an item's pictures stay together."""
        if self.limit is None:
            return list(problems)
        sizes = Counter(problem.item or problem.id for problem in problems)
        chosen, asked = set(), 0
        for item in sorted(sizes, key=lambda item: lot(self.seed, "problem", item)):
            if asked + sizes[item] > self.limit:
                break
            chosen.add(item)
            asked += sizes[item]
        if not chosen:
            raise UserError(
                f"protocol {self.name}: limit is {self.limit}, and the first item alone has more "
                "problems; raise it"
            )
        return [problem for problem in problems if (problem.item or problem.id) in chosen]

    def shown(self, examples: Sequence[Example], problems: Sequence[Problem]) -> list[Example]:
        """The examples that are shown, of which none asks what one of ``problems`` asks.

        Raises:
            UserError: There are too few.
        """
        asked = {_normalised(problem.question) for problem in problems}
        others = [one for one in examples if _normalised(one.question) not in asked]
        if len(others) < self.shots:
            raise UserError(
                f"protocol {self.name}: {self.shots} shots, and there are {len(others)} examples "
                f"that are none of the problems ({len(examples)} in all); give more or ask for less"
            )
        drawn = sorted(others, key=lambda one: lot(self.seed, "example", one.question))
        return drawn[: self.shots]

    def requests(self, problems: Sequence[Problem], shown: Sequence[Example] = ()) -> list[Request]:
        """What a model is asked, in the order of ``problems``, after the examples ``shown``."""
        system = self.system_prompt
        opening = [{"role": "system", "content": system}] if system is not None else []
        for one in shown:
            opening += [
                {"role": "user", "content": one.question},
                {"role": "assistant", "content": one.answer},
            ]
        asked = [(p, [*opening, {"role": "user", "content": p.question}]) for p in problems]
        return [
            Request(p.id, n, messages, p.images, self.template)
            for p, messages in asked
            for n in range(self.samples)
        ]

    def sampling(self, benchmark: str) -> Sampling:
        """How the answers to the problems of ``benchmark`` are drawn."""
        new_tokens = self.max_new_tokens_of.get(benchmark, self.max_new_tokens)
        return Sampling(new_tokens, self.temperature, self.top_p, self.seed)


def _normalised(question: str) -> str:
    return " ".join(question.split()).casefold()


_LATER: dict[str, Any] = {"limit": None, "shots": 0, "template": {}, "grader": "rules"}
_PAPER = Protocol(
    "paper", max_new_tokens_of={"aime2025": 8192, "amc23": 8192}, system_prompt=PAPER_SYSTEM_PROMPT
)
PROTOCOLS = {
    "paper": _PAPER,
    "sampled": replace(_PAPER, name="sampled", samples=8, temperature=0.6, top_p=0.95),
    "upstream": replace(_PAPER, name="upstream", grader="upstream"),
    "upstream-sampled": replace(
        _PAPER, name="upstream-sampled", samples=8, temperature=0.5, grader="upstream"
    ),
    "quick": Protocol("quick", max_new_tokens=256),
}


def find_protocol(name: str) -> Protocol:
    """The protocol of that name, or the one in the YAML file of that name.

    Raises:
        UserError: There is neither, or the file's fields are wrong.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    if Path(name).suffix not in (".yaml", ".yml"):
        known = ", ".join(PROTOCOLS)
        raise UserError(f"--protocol {name}: choose from {known}, or give a YAML file")
    return read_definition(Path(name), Protocol)
