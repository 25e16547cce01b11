"""A log keeps lines, and of what is redrawn the last state."""

import io

import pytest

from wdl.pipeline import log as module
from wdl.pipeline.log import ROWS, LineLog


def logged(*pieces: bytes) -> bytes:
    stream = io.BytesIO()
    log = LineLog(stream)
    for piece in pieces:
        log.write(piece)
    log.finish()
    return stream.getvalue()


UP, ERASE = b"\x1b[1A", b"\x1b[2K"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"a\n\nb\n", b"a\nb\n"),
        (b"a\r\nb\r\n", b"a\nb\n"),
        (b"no end", b"no end\n"),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07text\n", b"red text\n"),
        (b"\r 1%\r 2%\r100%\nnext\n", b"100%\nnext\n"),
        (b"\r 1%\n\rinner 1%\x1b[A\n\r        \x1b[A\r100%\nend\n", b"100%\nend\n"),
        (b"x\ny" + (b"\r" + ERASE + UP + ERASE + b"x\ny") * 9 + b"\nend", b"x\ny\nend\n"),
        ("größer ✓\n".encode(), "größer ✓\n".encode()),
        (b"\xff\n", b"\xff\n"),
        (b"up" + b"\x1b[99A" + b"\rover\n", b"over\n"),
    ],
)
def test_lines(written: bytes, expected: bytes) -> None:
    assert logged(written) == expected
    assert logged(*(bytes([byte]) for byte in written)) == expected


def test_many_lines_are_not_kept_back() -> None:
    stream = io.BytesIO()
    LineLog(stream).write(b"".join(b"%d\n" % n for n in range(100)))
    assert stream.getvalue().splitlines()[-1] == b"%d" % (100 - ROWS)


def test_a_pause_shows_what_is_complete() -> None:
    stream = io.BytesIO()
    log = LineLog(stream)
    log.write(b"whole\nhalf")
    log.pause()
    assert stream.getvalue() == b"whole\n"
    log.write(b" a line\n")
    log.pause()
    assert stream.getvalue() == b"whole\nhalf a line\n"


def test_of_a_long_bar_a_state_is_logged_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    log = LineLog(stream)
    log.write(b"\r1%\r2%")
    log.pause()
    assert stream.getvalue() == b""
    with monkeypatch.context() as patch:
        patch.setattr(module, "SNAPSHOT_SECONDS", 0)
        log.write(b"\r3%")
        log.pause()
    log.write(b"\r4%\r5%\n")
    log.finish()
    assert stream.getvalue() == b"3%\n5%\n"


def test_a_pause_between_two_states_of_a_group_of_bars() -> None:
    stream = io.BytesIO()
    log = LineLog(stream)
    log.write(b"above 0\nbelow 0\n")
    for state in (b"1", b"2", b"3"):  # as rich does it
        log.write((UP + ERASE) * 2 + b"above " + state + b"\nbelow " + state + b"\n")
        log.pause()
    log.finish()
    assert stream.getvalue() == b"above 3\nbelow 3\n"
