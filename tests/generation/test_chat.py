"""A chat: turns that know what was said, thoughts folded, pipes, a terminal, servers."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CONFIGS
from servers import completion, refusal, serve
from vision_models import draw, write_vision_model

from wdl.cli import main
from wdl.errors import UserError
from wdl.generation.chat import Conversation, split_thought
from wdl.generation.engine import Request
from wdl.generation.openai_engine import OpenAIEngine
from wdl.generation.protocols import Protocol
from wdl.generation.transformers_engine import TransformersEngine
from wdl.remote.endpoint import Endpoint

TINY = str(CONFIGS / "tiny" / "strong")
GREEDY = Protocol("greedy", max_new_tokens=60)


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return TransformersEngine(TINY)


def piped(
    text: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[str, str]:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    main(["chat", *options])
    return capsys.readouterr()


def test_a_turn_is_asked_with_all_before_it_as_the_engine_answers_it(
    engine: TransformersEngine,
) -> None:
    chat, pieces = Conversation(engine, GREEDY, "shown"), list[str]()
    first = chat.say("Compute 12+30.", pieces.append)
    assert "".join(pieces) == first.completion and len(pieces) > 3
    second = chat.say("Compute 5*7.", pieces.append)
    (user, answer), asked = chat.messages[:2], chat.messages[:3]
    assert user["content"] == "Compute 12+30." and "think" not in answer["content"]
    ((expected,),) = engine.generate([Request("a", 0, asked)], GREEDY.sampling(""))
    assert expected.completion == second.completion
    chat.begin()
    assert chat.say("Compute 12+30.", pieces.append).completion == first.completion


@pytest.mark.parametrize(
    ("completion", "opened", "parts"),
    [
        ("<think>a</think>\n b", False, ("a", "b")),
        ("a</think>b", True, ("a", "b")),
        ("a still", True, ("a still", "")),
        ("[THINK]a[/THINK]b", False, ("a", "b")),
        ("<seed:think>a</seed:think>b", False, ("a", "b")),
        ("1 < 2 </think>", False, ("", "1 < 2 </think>")),
        ("", False, ("", "")),
    ],
)
def test_a_thought_is_told_from_an_answer(
    completion: str, opened: bool, parts: tuple[str, str]
) -> None:
    assert split_thought(completion, opened) == parts


def test_the_context_bounds_an_answer(engine: TransformersEngine) -> None:
    chat = Conversation(engine, Protocol("long", max_new_tokens=10**6))
    context = engine.config.get_text_config().max_position_embeddings
    with pytest.raises(UserError, match="the model's context is"):
        chat.say("7" * context, lambda text: None)
    assert not chat.messages  # nothing was said
    assert chat.say("Compute 1+1.", lambda text: None).finish_reason == "stop"


def test_a_pipe_gets_answers_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (TINY, "--temperature", "0", "--max_new_tokens", "90")
    out, _ = piped(b"Compute 12+30.\n\nCompute 5*7.\n", monkeypatch, capsys, *options)
    assert re.fullmatch(r"(<answer>.*</answer>\n){2}", out)
    with pytest.raises(SystemExit, match="2"):
        piped(b"\xff\n", monkeypatch, capsys, *options)
    assert "line 1: is no UTF-8 text" in capsys.readouterr().err
    for wrong in (["--key_variable", "KEY"], ["--temperature", "-1"], ["--protocol", "fast"]):
        with pytest.raises(SystemExit, match="2"):
            piped(b"a\n", monkeypatch, capsys, TINY, *wrong)
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_server_is_asked_with_the_whole_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(lambda body, n: completion(f"<think>x</think>{len(body['messages'])}")) as server:
        given = ("m", "--url", server.url, "--system", "Be brief.")
        assert piped(b"a\nb\n", monkeypatch, capsys, *given)[0] == "2\n4\n"
    assert [m["content"] for m in server.bodies[1]["messages"]] == ["Be brief.", "a", "2", "b"]
    with (
        serve(lambda body, n: refusal(400, "too long")) as server,
        pytest.raises(SystemExit, match="2"),
    ):
        piped(b"a\n", monkeypatch, capsys, "m", "--url", server.url)
    assert "line 1: http://127.0.0.1" in capsys.readouterr().err


def test_pictures_stay_in_the_conversation(tmp_path: Path) -> None:
    image = draw(tmp_path / "a.png", 60, 90, "red")
    seeing = TransformersEngine(str(write_vision_model(tmp_path / "model")))
    chat = Conversation(seeing, Protocol("short", max_new_tokens=4))
    with pytest.raises(UserError, match=r"/image b\.png: there is no such file"):
        chat.show("b.png")
    chat.show(image)
    chat.say("What?", lambda text: None)
    chat.say("And?", lambda text: None)
    assert chat.images == (image,) and chat.messages[0]["content"] == "<image>\nWhat?"
    with serve(lambda body, n: completion("red")) as server:
        chat = Conversation(OpenAIEngine("m", Endpoint(server.url, "m")), GREEDY)
        chat.show(image)
        chat.say("What?", lambda text: None)
    assert server.bodies[0]["messages"][0]["content"][0]["type"] == "image_url"


@pytest.mark.parametrize("last", [b"\x04", b"\x03"], ids=["ctrl-d", "ctrl-c"])
def test_a_terminal_is_left_cleanly(last: bytes) -> None:
    with serve(lambda body, n: completion("\x1b[2Jred")) as server:
        command = [sys.executable, "-m", "wdl", "chat", "m", "--url", server.url]
        own, its = pty.openpty()
        child = subprocess.Popen(
            command, stdin=its, stdout=its, stderr=its, start_new_session=True, preexec_fn=_control
        )
        os.close(its)
        seen = b""
        for wanted, said in ((b"> ", b"hi\n"), (b"[2Jred\r\n", b""), (b"> ", last)):
            while wanted not in seen:
                seen += os.read(own, 1024)
            seen = seen.partition(wanted)[2]
            os.write(own, said)
        assert child.wait(20) == 0
        os.close(own)
    assert [body["messages"][0]["content"] for body in server.bodies] == ["hi"]


def _control() -> None:
    """In the child: let the terminal send it signals."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
