"""How answers are generated: named, versioned protocols.

A result carries its protocol whole, so that numbers under different protocols are never compared
by accident. A protocol of your own is a YAML file with the fields of :class:`Protocol`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wdl.config.definitions import read_definition
from wdl.constants import PAPER_SYSTEM_PROMPT
from wdl.errors import UserError
from wdl.generation.engine import Request, Sampling
from wdl.questions.problems import Problem


@dataclass(frozen=True)
class Protocol:
    """Everything that decides how a model is asked and how it answers.

    Thinking is as the chat template has it by default, which is on for Qwen3.

    Args:
        name: What results call it.
        version: Raised whenever a field of a published protocol changes.
        max_new_tokens: Longest answer, in tokens.
        max_new_tokens_of: Longer answers for some benchmarks, by their name.
        system_prompt: First message of each conversation; null sends none.
        samples: Answers per problem.
        temperature: 0 is greedy decoding.
        top_p: Nucleus that samples are drawn from; 1 is the whole distribution.
        seed: Seeds the drawing of samples.
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

    def __post_init__(self) -> None:
        equal = f"{self.samples} samples at temperature 0 are all equal; raise the temperature"
        shortest = min(self.max_new_tokens, *self.max_new_tokens_of.values(), 1)
        faults = {
            f"samples is {self.samples}; ask for at least 1": self.samples < 1,
            f"temperature is {self.temperature}; it is at least 0": self.temperature < 0,
            f"top_p is {self.top_p}; it lies in (0, 1]": not 0 < self.top_p <= 1,
            equal: self.samples > 1 and self.temperature == 0,
            "max_new_tokens must be at least 1": shortest < 1,
        }
        if found := [text for text, wrong in faults.items() if wrong]:
            raise UserError(*(f"protocol {self.name}: {text}" for text in found))

    def requests(self, problems: Sequence[Problem]) -> list[Request]:
        """What a model is asked, in the order of ``problems``."""
        system = self.system_prompt
        opening = [{"role": "system", "content": system}] if system is not None else []
        asked = [(p, [*opening, {"role": "user", "content": p.question}]) for p in problems]
        return [
            Request(p.id, n, messages, p.images)
            for p, messages in asked
            for n in range(self.samples)
        ]

    def sampling(self, benchmark: str) -> Sampling:
        """How the answers to the problems of ``benchmark`` are drawn."""
        new_tokens = self.max_new_tokens_of.get(benchmark, self.max_new_tokens)
        return Sampling(new_tokens, self.temperature, self.top_p, self.seed)


_PAPER = Protocol(
    "paper", max_new_tokens_of={"aime2025": 8192, "amc23": 8192}, system_prompt=PAPER_SYSTEM_PROMPT
)
PROTOCOLS = {
    "paper": _PAPER,
    "sampled": replace(_PAPER, name="sampled", samples=8, temperature=0.6, top_p=0.95),
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
