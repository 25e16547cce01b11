"""A teacher as a grader: what it is asked, and what each kind of reply makes of a verdict."""

import json
from collections import Counter
from pathlib import Path

import pytest
from servers import Said, Script, Server, completion, question, refusal, serve

from wdl.grading.grader import Grade, Grader, Task
from wdl.grading.judge import RulesThenTeacher, TeacherGrader, agreement
from wdl.remote.endpoint import Teacher
from wdl.remote.teacher import AGAIN, TeacherClient


def task(completion: str, reference: str = "4", complete: bool = True) -> Task:
    return Task("expression", "2+2?", reference, completion, complete)


def verdict(name: str, answer: str = "4") -> str:
    return json.dumps({"reason": "so", "answer": answer, "verdict": name})


def grade(server: Server, *tasks: Task, journal: str = "replies.jsonl") -> list[Grade]:
    client = TeacherClient(Teacher(server.url, "m", retries=0), Path(journal))
    try:
        return TeacherGrader(client).grade(tasks)
    finally:
        client.close()


def saying(first: Said, second: Said) -> Script:
    """One thing at first, another when reminded of the form; forms of the probe are filled in."""

    def script(body: dict, n: int) -> Said:
        if "<attempt>" not in question(body):
            return completion(verdict("right"))
        return second if question(body).endswith(AGAIN) else first

    return script


def test_what_the_teacher_is_asked() -> None:
    with serve(lambda body, n: completion(verdict("right"))) as server:
        found = grade(
            server, task("<think>5, no</think>It is {4}."), task("It is 4.", reference="")
        )
    assert found == [Grade("correct", "4", "by the teacher")] * 2
    with_reference, without = sorted(server.questions[1:], key=lambda text: "none" in text)
    assert "<question>\n2+2?\n" in with_reference
    assert "<reference>\n4\n" in with_reference
    assert "<attempt>\nIt is {4}.\n" in with_reference  # the thought is not judged
    assert "There is none" in without
    body = server.bodies[-1]
    assert body["temperature"] == 0
    assert body["response_format"]["json_schema"]["schema"]["required"][-1] == "verdict"


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (verdict("right"), "correct"),
        (verdict("wrong"), "wrong"),
        (verdict("unsure"), "could_not_grade"),
        (f"Well:\n```json\n{verdict('wrong')}\n```", "wrong"),
        (f"I say {verdict('right')}.", "correct"),
    ],
)
def test_replies_that_are_read_at_once(reply: str, status: str) -> None:
    with serve(saying(completion(reply), refusal(500))) as server:
        assert [one.status for one in grade(server, task("It is 4."))] == [status]


@pytest.mark.parametrize(
    "first",
    [
        completion("It is right."),
        completion('{"verdict": "right"'),
        completion('{"verdict": "maybe"}'),
        completion('{"verdict": ["right"]}'),
        completion(verdict("right"), reason="length"),
        completion(""),
    ],
)
def test_others_are_asked_for_once_more(first: Said) -> None:
    with serve(saying(first, completion(verdict("wrong")))) as server:
        assert [one.status for one in grade(server, task("It is 4."))] == ["wrong"]
    with serve(saying(first, first)) as server:
        (found,) = grade(server, task("It is 4."), journal="other.jsonl")
    assert found.status == "could_not_grade"
    assert found.detail.startswith("the teacher's reply: ")
    assert len(server.bodies) == 3


def test_a_refused_attempt_is_not_graded_and_not_asked_again() -> None:
    def script(body: dict, n: int) -> Said:
        long = "long" in question(body)
        return refusal(400, "too long") if long else completion(verdict("right"))

    with serve(script) as server:
        for _ in range(2):
            found = grade(server, task("It is 4."), task("a long one"))
            assert [one.status for one in found] == ["correct", "could_not_grade"]
            assert "HTTP 400 (too long)" in found[1].detail
        assert max(Counter(server.questions).values()) == 1


def test_a_server_without_schemas_is_asked_for_text() -> None:
    def script(body: dict, n: int) -> Said:
        has = "response_format" in body
        return refusal(400, "unknown field") if has else completion(verdict("wrong"))

    with serve(script) as server:
        found = grade(server, *(task(f"It is {n}.") for n in range(60)))
    assert {one.status for one in found} == {"wrong"}
    assert len(server.bodies) == 61


def test_answers_that_were_cut_off_are_not_shown() -> None:
    with serve(lambda body, n: completion(verdict("right"))) as server:
        found = grade(server, task("<think>2+2 is", complete=False), task("It is 4."))
    assert [one.status for one in found] == ["cut_off", "correct"]
    assert len(server.bodies) == 2


def test_the_teacher_judges_what_rules_cannot() -> None:
    with serve(lambda body, n: completion(verdict("right"))) as server, Grader(1) as rules:
        client = TeacherClient(Teacher(server.url, "m"), Path("replies.jsonl"))
        both = RulesThenTeacher(rules, TeacherGrader(client))
        tasks = [task(r"\boxed{4}"), task(r"\boxed{5}"), task("Four it is.", reference="")]
        assert [one.status for one in both.grade(tasks)] == ["correct", "wrong", "correct"]
        client.close()
    assert len(server.bodies) == 2
    assert both.describe()["teacher"]["model"] == "m"


def test_agreement() -> None:
    rules = [True, True, False, False, None, True]
    teacher = [True, False, False, True, True, None]
    found = agreement(rules, teacher)
    assert found == {"both": 4, "agree": 2, "only_rules": 1, "only_teacher": 1}
