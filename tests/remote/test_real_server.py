"""vLLM's own OpenAI server on the embedded model, started once, as sampler and as teacher.

Its interpreter is .venv-vllm/bin/python, which ``make test`` sets up, or that of WDL_VLLM_PYTHON.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from attempts import read, write
from conftest import CONFIGS, REPOSITORY
from servers import Server, serve_vllm

from wdl.cli import main
from wdl.rounds.attempts import VERDICTS

INTERPRETER = Path(os.environ.get("WDL_VLLM_PYTHON", REPOSITORY / ".venv-vllm/bin/python"))
QUESTIONS = read(CONFIGS / "tiny" / "heldout.jsonl")[:12]
KEY = "sk-very-secret-0123"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server, which wants a key."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serve_vllm(INTERPRETER, CONFIGS / "tiny" / "strong", log, KEY) as server:
        yield server


def engine(server: Server, model: str = "tiny") -> str:
    Path("engine.yaml").write_text(
        "class_path: wdl.generation.openai_engine.OpenAIEngine\n"
        "init_args:\n  endpoint:\n"
        f"    url: {server.url}\n    model: {model}\n    key_variable: MY_KEY\n"
    )
    return "engine.yaml"


def sample(server: Server, out: str, *more: str) -> list[str]:
    options = ["--model", str(CONFIGS / "tiny" / "strong"), "--pool", "pool.jsonl", "--n", "4"]
    options += ["--engine", engine(server), "--max_new_tokens", "128", "--out", out, *more]
    return ["sample", *options]


@pytest.fixture(autouse=True)
def pool() -> None:
    os.environ["MY_KEY"] = KEY
    write("pool.jsonl", QUESTIONS)


def test_it_samples_and_teaches(server: Server) -> None:
    main(sample(server, "samples.jsonl"))
    samples = read("samples.jsonl")
    assert len(samples) == 4 * len(QUESTIONS)
    assert {row["finish_reason"] for row in samples} == {"stop"}
    assert len({row["completion"] for row in samples}) > len(QUESTIONS)
    main(sample(server, "again.jsonl"))
    # each attempt has its seed; what it is batched with may round otherwise
    assert sum(a == b for a, b in zip(read("again.jsonl"), samples, strict=True)) > 43

    main(["grade", "--samples", "samples.jsonl", "--out", "rules.jsonl"])
    assert sum(row["verdict"] == "right" for row in read("rules.jsonl")) > len(samples) / 4

    teacher = ["--teacher.url", server.url, "--teacher.model", "tiny", "--teacher.max_tokens"]
    teacher += ["400", "--teacher.key_variable", "MY_KEY"]
    few = write("few.jsonl", samples[:8])
    main(["grade", "--samples", few, "--out", "taught.jsonl", "--by", "teacher", *teacher])
    # it has never seen JSON; what it is held to by the schema is a verdict all the same
    assert {row["verdict"] for row in read("taught.jsonl")} <= set(VERDICTS)
    replies = read("taught.jsonl.teacher.jsonl")[1:]
    assert not [one["refused"] for one in replies if one["refused"]]
    written = [json.loads(one["text"]) for one in replies if one["finish_reason"] == "stop"]
    assert all(set(one) == {"reason", "answer", "verdict"} for one in written)

    graded = write("graded.jsonl", [row | {"verdict": "wrong"} for row in read("rules.jsonl")[:4]])
    options = ["--pool", "pool.jsonl", "--graded", graded, "--out", "enhanced.jsonl"]
    main(["enhance", *options, *teacher])
    assert not [file for file in Path().iterdir() if KEY in file.read_text()]


def test_a_wrong_model_and_a_refused_key(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    words = sample(server, "out.jsonl")
    engine(server, model="huge")
    with pytest.raises(SystemExit):
        main(words)
    last = capsys.readouterr().err.splitlines()[-1]
    assert "HTTP 404 (The model `huge` does not exist." in last
    assert last.endswith("; check url and model (huge)")
    engine(server)
    os.environ["MY_KEY"] = "another"
    with pytest.raises(SystemExit):
        main([*words[:-1], "other.jsonl"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert "HTTP 401: it refuses the key that MY_KEY holds" in last
