r"""Where an answer stands in a completion; the hard cases hold many more."""

import pytest

from wdl.grading.answers import find_answer, last_boxed, value_in
from wdl.grading.notation import plain
from wdl.grading.plain_numbers import equal_in_base


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
        ("the answer is 4. The answer is 5", "5"),
        ("The answer is 5. I hope the answer is correct.", "5"),
        ("**Answer:**\n\n5", "5"),
        (r"$\boxed{1} \text{ and } \boxed{2}$", "1, 2"),
        (r"x = \boxed{1}, y = \boxed{2}", "x = 1, y = 2"),
        ("$5$", "$5$"),
        ("<think>The answer is 5", None),
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


def test_thinking_that_the_prompt_opened_states_nothing_until_it_is_closed() -> None:
    assert find_answer(r"\boxed{5}", complete=True, thinking=True) is None
    assert find_answer(r"4?</think> \boxed{5}", complete=True, thinking=True) == "5"


@pytest.mark.parametrize(
    ("sentence", "value"),
    [
        ("The smallest $k$ is 17", "17"),
        ("She has 17 apples left", "17"),
        ("$17$, because it fits", "$17$"),
        ("She has more than 17 apples", "She has more than 17 apples"),
        ("3 red and 4 blue", "3 red and 4 blue"),
        ("x = 17", "x = 17"),
    ],
)
def test_value_of_a_sentence(sentence: str, value: str) -> None:
    assert value_in(sentence) == value


def test_an_unclosed_box_ends_with_its_line() -> None:
    assert last_boxed("so $\\boxed{12$\nis it") == "12"


def test_a_long_completion_takes_no_time() -> None:
    """Repetitions are what models that never end produce; nothing may be quadratic in them."""
    pieces = ("<answer>", "</answer>", r"\boxed{", r"\boxed{5} and ", "the answer is ", "<think>")
    for piece in (*pieces, "**a ", "5 ", "$", " ", "is ", "because "):
        find_answer(piece * 20_000, complete=True)
        plain(value_in(piece * 20_000))
        equal_in_base(piece * 20_000, "5_8")
