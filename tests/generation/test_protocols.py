"""Named protocols, protocols of one's own, and those that make no sense."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from wdl.errors import UserError
from wdl.generation.protocols import PROTOCOLS, Protocol, find_protocol
from wdl.grading.graders import GRADERS
from wdl.questions.problems import Problem


def test_the_papers_protocol() -> None:
    paper = PROTOCOLS["paper"]
    assert (paper.temperature, paper.samples, paper.seed) == (0, 1, 42)
    assert [paper.sampling(name).max_new_tokens for name in ("aime2025", "amc23", "gsm8k")] == [
        8192,
        8192,
        4096,
    ]
    assert paper.system_prompt is not None
    assert "<think>" in paper.system_prompt


def test_quick_is_for_tiny_models() -> None:
    assert PROTOCOLS["quick"].sampling("amc23").max_new_tokens == 256


def test_a_protocol_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    file.write_text("name: long\nversion: 3\nsamples: 4\ntemperature: 0.8\nmax_new_tokens: 16384\n")
    protocol = find_protocol(str(file))
    assert protocol == Protocol("long", 3, samples=4, temperature=0.8, max_new_tokens=16384)


def test_a_saved_protocol_is_the_same_again() -> None:
    assert Protocol(**asdict(PROTOCOLS["sampled"])) == PROTOCOLS["sampled"]


def test_each_sample_is_a_request() -> None:
    problems = [Problem("a", "1+1?", "2"), Problem("b", "2+2?", "4")]
    requests = Protocol("two", samples=2, temperature=1.0).requests(problems)
    assert [request.key for request in requests] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert requests[2].messages == [{"role": "user", "content": "2+2?"}]


def test_an_unknown_name() -> None:
    with pytest.raises(UserError, match="choose from paper, sampled, upstream"):
        find_protocol("slow")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"samples": 2}, "2 samples at temperature 0 are all equal"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens_of": {"amc23": 0}}, "max_new_tokens"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        Protocol("mine", **settings)


def test_upstream_asks_as_the_paper_and_judges_as_its_code() -> None:
    """Greedy, only the grader differs; sampled, what the published code draws its samples by."""
    paper, upstream, sampled = (PROTOCOLS[n] for n in ("paper", "upstream", "upstream-sampled"))
    assert (paper.grader, upstream.grader) == ("rules", "upstream")
    assert replace(upstream, name="paper", grader="rules") == paper
    assert (sampled.samples, sampled.temperature, sampled.top_p, sampled.seed) == (8, 0.5, 1.0, 42)
    assert sampled.grader == "upstream"


def test_every_grader_of_a_protocol_exists() -> None:
    assert set(get_args(get_type_hints(Protocol)["grader"])) == set(GRADERS)


def test_a_grader_that_does_not_exist(tmp_path: Path) -> None:
    file = tmp_path / "strict.yaml"
    file.write_text("name: strict\ngrader: strict\n")
    with pytest.raises(UserError, match="grader"):
        find_protocol(str(file))
