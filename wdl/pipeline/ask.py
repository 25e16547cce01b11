"""Step by step: questions to whoever sits at the terminal, or to a file of answers."""

import sys
from collections.abc import Callable


def ask(question: str, choices: str, show_status: Callable[[], None]) -> str:
    """Ask until one of the choices is answered; the end of the input means quit.

    Args:
        question: What is to be decided.
        choices: First letters of continue, retry, status and quit.
        show_status: Called where status is the answer, before asking again.

    Returns:
        ``continue``, ``retry`` or ``quit``.
    """
    words = [word for word in ("continue", "retry", "status", "quit") if word[0] in choices]
    shown = ", ".join(f"({word[0]}){word[1:]}" for word in words)
    while True:
        print(f"{question}: {shown}? ", end="", flush=True)
        line = sys.stdin.buffer.readline() if sys.stdin else b""
        answer = line.decode(errors="replace").strip().lower() if line else "quit"
        if not line or not sys.stdin.isatty():
            print(answer, flush=True)
        chosen = [word for word in words if answer in (word, word[0])]
        if chosen == ["status"]:
            show_status()
        elif chosen:
            return chosen[0]
