"""``wdl sample`` and ``wdl grade`` with the embedded model, killed and resumed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from attempts import attempt, graded, read, refused, write
from conftest import CONFIGS
from processes import wait_for
from transformers import AutoTokenizer

from wdl.cli import main
from wdl.data.encoding import compose, encode_prompt
from wdl.rounds import grade as module
from wdl.rounds.attempts import Attempt, statistics
from wdl.rounds.pool import question_id
from wdl.system.outcome import VARIABLE, read_outcome

STRONG = CONFIGS / "tiny" / "strong"
QUESTIONS = read(CONFIGS / "tiny" / "train.jsonl")


@pytest.fixture
def pool() -> str:
    return write("pool.jsonl", QUESTIONS[:40])


def command(out: str, *more: str) -> list[str]:
    options = ["--model", str(STRONG), "--pool", "pool.jsonl", "--max_new_tokens", "128"]
    return ["sample", *options, "--out", out, *more]


def test_from_questions_to_verdicts(
    pool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, "outcome.json")
    main(command("a/samples.jsonl", "--n", "4"))
    samples = read("a/samples.jsonl")
    assert [(row["id"], row["attempt"]) for row in samples] == [
        (question_id(row["instruction"]), n) for row in QUESTIONS[:40] for n in range(4)
    ]
    first = samples[0]
    assert first["messages"] == [{"role": "user", "content": QUESTIONS[0]["instruction"]}]
    assert first["answer"] == QUESTIONS[0]["answer"]
    assert read_outcome(Path("outcome.json"))[0]["attempts"] == 160

    main(["grade", "--samples", "a/samples.jsonl", "--out", "a/graded.jsonl"])
    rows = read("a/graded.jsonl")
    assert [{k: row[k] for k in first} for row in rows] == samples
    for row in rows:  # the embedded model always writes a box
        is_right = row["completion"].endswith(f"\\boxed{{{row['answer']}}}</answer>")
        assert row["verdict"] == ("right" if is_right else "wrong")
    assert {"right", "wrong"} == {row["verdict"] for row in rows}
    _, shares = read_outcome(Path("outcome.json"))
    right = sum(row["verdict"] == "right" for row in rows)
    assert shares["pass@1"] == pytest.approx(right / 160)

    before = {file: file.read_bytes() for file in Path("a").iterdir()}
    main(command("a/samples.jsonl", "--n", "4"))
    main(["grade", "--samples", "a/samples.jsonl", "--out", "a/graded.jsonl"])
    assert capsys.readouterr().out.count("there already, made from the same inputs") == 2
    assert {file: file.read_bytes() for file in Path("a").iterdir()} == before


def test_a_prompt_is_that_of_training(pool: str) -> None:
    main(command("samples.jsonl", "--n", "1", "--system_prompt", "paper"))
    tokenizer = AutoTokenizer.from_pretrained(STRONG)
    messages = read("samples.jsonl")[0]["messages"]
    user = [{"role": "user", "content": QUESTIONS[0]["instruction"]}]
    record = {"messages": user, "completion": "x", "thought": "", "images": []}
    prompt, _ = compose(tokenizer, record, 258, "paper")  # type: ignore[arg-type]
    asked = encode_prompt(tokenizer, messages)
    assert asked == tokenizer(prompt, add_special_tokens=False).input_ids


def test_killed_half_way_it_makes_the_same(pool: str) -> None:
    main(command("whole/samples.jsonl"))
    words = [sys.executable, "-m", "wdl", *command("killed/samples.jsonl")]
    child = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    journal = Path("killed/.samples.jsonl.journal")
    wait_for(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 40, 120)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not Path("killed/samples.jsonl").exists()
    kept = journal.read_bytes()
    assert 40 < kept.count(b"\n") < 320, "it was killed too late"
    journal.write_bytes(kept + b'{"id": "torn')
    main(command("killed/samples.jsonl"))
    names = ("samples.jsonl", "samples.jsonl.summary.json")
    for name in names:
        assert Path("killed", name).read_bytes() == Path("whole", name).read_bytes()
    assert {file.name for file in Path("killed").iterdir()} == set(names)


ENGINE = '''
"""Answers two questions, then crashes, unless the file that it makes is there."""

from pathlib import Path

from wdl.generation.engine import Engine, Generation
from wdl.system.child import ChildFailure


class Shaky(Engine):
    def check(self, requests, sampling):
        return {"thinking": True}

    def describe(self):
        return {"engine": "shaky"}

    def generate(self, requests, sampling, done=()):
        for number, request in enumerate(r for r in requests if r.key not in done):
            if number == 2 and not Path("crashed").exists():
                Path("crashed").touch()
                raise ChildFailure("out of memory")
            yield [Generation(request.id, request.sample, str(len(done)), "stop", 1)]
'''


def test_an_engine_that_crashes_may_be_tried_again(
    pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "shaky", raising=False)
    Path("shaky.py").write_text(ENGINE)
    Path("own.yaml").write_text("class_path: shaky.Shaky\n")
    words = command("out.jsonl", "--n", "1", "--engine", "own.yaml")
    with pytest.raises(SystemExit) as end:
        main(words)
    assert "the engine failed (out of memory); what it has done is kept" in str(end.value.code)
    main(words)
    rows = read("out.jsonl")
    assert [row["completion"] for row in rows] == ["0"] * 2 + ["2"] * 38
    assert all(row["thinking"] for row in rows)


def test_grading_goes_on_from_its_journal(
    pool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [attempt(row["instruction"], 0, answer="309") for row in QUESTIONS[:20]]
    samples = write("samples.jsonl", [{**r, "completion": r["id"]} for r in rows])
    monkeypatch.setattr(module, "BLOCK", 4)
    main(["grade", "--samples", samples, "--out", "whole.jsonl"])
    judged: list[int] = []

    def stop_at_the_third(self: module.RulesJudge, attempts: list) -> object:
        for number, ready in enumerate(judge(self, attempts)):
            if number == 2 and not judged:
                raise KeyboardInterrupt
            yield ready
        judged.append(len(attempts))

    judge = module.RulesJudge.judge
    monkeypatch.setattr(module.RulesJudge, "judge", stop_at_the_third)
    with pytest.raises(SystemExit):
        main(["grade", "--samples", samples, "--out", "killed.jsonl"])
    judged.append(0)
    main(["grade", "--samples", samples, "--out", "killed.jsonl"])
    assert judged == [0, 12]
    assert Path("killed.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_verdicts_by_the_kind_of_the_answer() -> None:
    choice = "Which?\n\nA) 21\nB) 22"
    rows = [
        attempt("3+4?", 0, answer="7", completion="The answer is 7.0."),
        attempt("3+4?", 1, answer="7", completion="It is $8$."),
        attempt(choice, 0, answer="B", completion="The answer is 22."),
        attempt(choice, 1, answer="B", completion="<answer>A</answer>"),
        attempt("Solve.", 0, answer="x+1", completion=r"\boxed{1+x}"),
        attempt("Cut.", 0, answer="7", completion="<think>3+4", finish_reason="length"),
        attempt("Open.", 0, answer="7", completion="7", thinking=True),
    ]
    write("samples.jsonl", rows)
    main(["grade", "--samples", "samples.jsonl", "--out", "graded.jsonl"])
    found = [row["verdict"] for row in read("graded.jsonl")]
    assert found == ["right", "wrong", "right", "wrong", "right", "wrong", "wrong"]
    results = json.loads(Path("graded.jsonl.summary.json").read_text())["results"]
    assert results["cut_off"] == 1


GRADER = '''
"""Cannot grade answers that say so."""

from wdl.grading.grader import BaseGrader, Grade


class Modest(BaseGrader):
    def __init__(self, word: str) -> None:
        self.word = word

    def describe(self):
        return {"name": "modest", "word": self.word}

    def grade(self, tasks):
        return [
            Grade("could_not_grade" if self.word in task.completion else "correct", None, "?")
            for task in tasks
        ]
'''


def test_a_grader_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "modest", raising=False)
    Path("modest.py").write_text(GRADER)
    Path("own.yaml").write_text("class_path: modest.Modest\ninit_args:\n  word: hm\n")
    rows = [attempt("?", n, completion=text) for n, text in enumerate(("hm", "yes"))]
    samples = write("samples.jsonl", rows)
    main(["grade", "--samples", samples, "--out", "graded.jsonl", "--by", "own.yaml"])
    assert [row["verdict"] for row in read("graded.jsonl")] == ["ungraded", "right"]
    summary = json.loads(Path("graded.jsonl.summary.json").read_text())
    assert summary["key"]["judge"] == {"name": "modest", "word": "hm"}
    assert summary["results"]["ungraded"] == 1
    assert summary["results"]["pass@1"] == 1.0  # ungraded is not wrong
    assert "pass@2" not in summary["results"]  # no question has two graded attempts


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("[Grade('correct', 309) for _ in tasks]", "Own gives Grade(status='correct', answer=309"),
        ("[Grade('fine', None) for _ in tasks]", "one of correct, wrong, cut_off, could_not_grade"),
        ("['correct' for _ in tasks]", "the grader odd.Own gives 'correct'; give a Grade"),
        ("[]", "the grader odd.Own gives 0 grades to 2 tasks; give each one"),
        ("None", "the grader odd.Own fails (TypeError: "),
        ("{}['x']", "odd.py:6: the grader odd.Own fails (KeyError: 'x'); mend it"),
    ],
)
def test_a_grader_that_errs_is_named(
    given: str, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "odd", raising=False)
    Path("odd.py").write_text(
        "from wdl.grading.grader import BaseGrader, Grade\nclass Own(BaseGrader):\n"
        "    def describe(self):\n        return {}\n"
        f"    def grade(self, tasks):\n        return {given}\n"
    )
    Path("own.yaml").write_text("class_path: odd.Own\n")
    samples = write("samples.jsonl", [attempt("?", n) for n in range(2)])
    words = ["grade", "--samples", samples, "--out", "graded.jsonl", "--by", "own.yaml"]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    *_, said = capsys.readouterr().err.splitlines()  # after the bar
    assert said.startswith("wdl: error: ") and fault in said
    assert not Path("graded.jsonl").exists()


def test_statistics_by_hand() -> None:
    letters = {"a": "rrww", "b": "rrrr", "c": "wwww", "d": "uuuu", "e": "rwuu"}
    rows = [Attempt(**row) for name, text in letters.items() for row in graded(name, text)]
    found = statistics(rows)
    assert found["all_right"] == found["all_wrong"] == found["all_ungraded"] == 1 / 5
    assert found["pass@1"] == pytest.approx((0.5 + 1 + 0 + 0.5) / 4)
    assert found["pass@2"] == pytest.approx((5 / 6 + 1 + 0 + 1) / 4)
    assert found["pass@4"] == pytest.approx((1 + 1 + 0) / 3)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--model", "nowhere"], "--model: there is no folder nowhere"),
        (["--pool", "nowhere.jsonl"], "nowhere.jsonl: there is no such file"),
        (["--pool", "pool.csv"], "pool.csv: questions come as"),
        (["--pool", "empty.jsonl"], "empty.jsonl: the file is empty"),
        (["--pool", "broken.jsonl"], "broken.jsonl:2: broken JSON"),
        (["--pool", "broken.jsonl"], "broken.jsonl:3: the row has no answer"),
        (["--pool", "broken.jsonl"], "broken.jsonl:4: the answer is '8', and was '7'"),
        (["--pool", "broken.jsonl"], "broken.jsonl:5: origin is 'heaven'; choose from seed,"),
        (["--pool", "broken.jsonl"], "broken.jsonl:6: streak is 'x'"),
        (["--pool", "broken.jsonl"], "broken.jsonl:7: 3 of 2 attempts are solved"),
        (["--pool", "broken.jsonl"], "broken.jsonl:8: parent is 5; give the id"),
        (["--pool", "broken.jsonl"], "broken.jsonl:9: id is 7, but that of its text is"),
        (["--pool", "broken.jsonl"], "broken.jsonl:10: prompt holds {'role': 'user', 'content': '"),
        (["--pool", "broken.jsonl"], "broken.jsonl:11: prompt holds {'role': 'system',"),
        (["--n", "0"], "samples is 0; ask for at least 1"),
        (["--temperature", "0"], "8 samples at temperature 0 are all equal"),
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--top_p", "0"], "top_p is 0.0"),
        (["--max_new_tokens", "0"], "max_new_tokens must be at least 1"),
        (["--max_new_tokens", "9999"], "ask for at most"),
        (["--engine", "llama"], "'llama'; choose from transformers, vllm, or give a YAML file"),
        (["--out", "."], "this is a folder; name a file in it"),
        (["--out", "pool.jsonl/samples.jsonl"], "pool.jsonl is a file; choose another place"),
        (["--out", "/proc/out.jsonl"], "/proc cannot be written to (No such file or directory);"),
        (["--out", f"{'x' * 300}.jsonl"], "a name of 306 bytes; it has at most"),
        (["--pool", "system.jsonl"], "system.jsonl:1: 'system' is not asked; give --system_prompt"),
        (["--pool", "half.jsonl"], "half.jsonl:1: 'the question' holds half a surrogate pair"),
        (["--out", "samples.txt"], "samples.txt: end the name in .jsonl"),
        (["--pool", "nan.jsonl"], "nan.jsonl:1: 'answer' is nan, which no attempt can be"),
        (["--out", "pool.jsonl"], "pool.jsonl: it was made with another"),
        (["--nn", "3"], "--nn"),
    ],
)
def test_what_cannot_be_sampled_is_said(
    options: list[str], fault: str, pool: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pool.csv").write_text("a,b\n")
    Path("empty.jsonl").write_text("")
    Path("system.jsonl").write_text('{"question": "3+4?", "answer": 7, "system": "be nice"}')
    Path("half.jsonl").write_text('{"question": "3+4? \\ud83d", "answer": 7}')
    Path("nan.jsonl").write_text('{"question": "3+4?", "answer": NaN}')
    question = {"question": "3+4?", "answer": 7}
    rows = [
        {"question": "5?"},
        {"question": " 3+4? ", "answer": 8},
        {**question, "origin": "heaven"},
        {**question, "origin": "seed", "streak": "x"},
        {**question, "origin": "seed", "attempts": 2, "solved": 3},
        {**question, "parent": 5},
        {**question, "origin": "seed", "id": 7},
        {"prompt": [{"role": "user", "content": "1?", "name": "Eve"}], "answer": 1},
        {"prompt": [{"role": s, "content": "1?"} for s in ("system", "user")], "answer": 1},
    ]
    lines = [json.dumps(question), "{oops", *map(json.dumps, rows)]
    Path("broken.jsonl").write_text("\n".join(lines))
    assert fault in refused(command("out.jsonl", *options), capsys)
    assert not Path("out.jsonl").exists()


def test_another_seed_is_another_file(pool: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(command("out.jsonl", "--n", "1"))
    before = Path("out.jsonl").read_bytes()
    capsys.readouterr()
    error = refused(command("out.jsonl", "--n", "1", "--seed", "7"), capsys)
    assert "out.jsonl: it was made with another protocol; results are never mixed" in error
    assert Path("out.jsonl").read_bytes() == before
    main(command("other.jsonl", "--n", "1", "--seed", "7"))
    assert Path("other.jsonl").read_bytes() != before


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("{oops", "broken JSON"),
        ([1], "an attempt is an object"),
        ({"question": "?"}, "it has no id; an attempt is a row that wdl sample writes"),
        (attempt("?", 0, new_tokens="many"), "new_tokens is 'many'"),
        (attempt("?", 0, messages=[{"role": "user"}]), "messages must be objects"),
        (attempt("?", 0, finish_reason="tired"), "finish_reason is 'tired'"),
        (attempt("?", 0, thinkin=True), "'thinkin' is no field of an attempt; correct or drop it"),
        (attempt("?", -1), "attempt is -1, which wdl sample never writes"),
        (
            attempt("?", 0, messages=[{"role": "user", "content": "?", "name": "Eve"}]),
            "messages must be objects with the texts role and content and no more",
        ),
        (attempt("?", 9), "attempt 9 at 7 is there already"),
    ],
)
def test_what_cannot_be_graded_is_said(
    row: object, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = attempt("?", 9)
    text = row if isinstance(row, str) else json.dumps(row)
    Path("samples.jsonl").write_text(f"{json.dumps(first)}\n{text}\n")
    error = refused(["grade", "--samples", "samples.jsonl", "--out", "out.jsonl"], capsys)
    assert f"samples.jsonl:2: {fault}".replace("at 7", f"at {first['id']}") in error


def test_ranks_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("wdl.cli.time.sleep", lambda seconds: None)
    for verb in ("sample", "grade", "keep", "pairs", "next-pool", "prompts"):
        with pytest.raises(SystemExit):
            main([verb])
        assert f"wdl {verb} is one process" in capsys.readouterr().err
