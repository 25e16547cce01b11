r"""Where an answer stands in a completion; the hard cases hold many more."""

import pytest

from wdl.grading.answers import find_answer, last_boxed


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"<think>1+1=2</think> <answer>\boxed{2}</answer>", "2"),
        (r"\boxed{1} and then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"<think>\boxed{1}</think> \boxed{2}", "2"),
        (r"<think>a</think> b </think> \boxed{2}", "2"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        (r"\boxed{\{x : x > \{0\}\}}", r"\{x : x > \{0\}\}"),
        ("The answer is: $x = 3$.", "$x = 3$"),
        ("So the answer is 3. That is all.", "3"),
        ("<answer> 3 </answer>", "3"),
        ("nothing to see", None),
        (r"<think>\boxed{1}</think>", None),
        (r"\boxed{}", ""),
    ],
)
def test_finds_the_answer(completion: str, answer: str | None) -> None:
    assert find_answer(completion, complete=True) == answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"<think>perhaps \boxed{3}", None),
        (r"<think>a</think> \boxed{3", None),
        (r"<think>a</think> \boxed{3} and on and on", "3"),
        (r"no thinking: \boxed{3} and on and on", "3"),
    ],
)
def test_what_is_cut_off_states_only_what_is_whole(completion: str, answer: str | None) -> None:
    assert find_answer(completion, complete=False) == answer


def test_an_unclosed_box_ends_with_its_line() -> None:
    assert last_boxed("so $\\boxed{12$\nis it") == "12"


def test_a_long_completion_takes_no_time() -> None:
    """Repetitions are what models that never end produce; nothing may be quadratic in them."""
    for piece in ("<answer>", "</answer>", r"\boxed{", "the answer is ", "<think>"):
        find_answer(piece * 50_000, complete=True)
