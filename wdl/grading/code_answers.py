"""The program in what a model has written."""

import ast
import re

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.M | re.S)
_OPEN = re.compile(r"^[ \t]*```", re.MULTILINE)
_PYTHON = ("python", "python3", "py", "py3")


def find_code(
    completion: str, complete: bool, thinking: bool = False, entry: str = "", prompt: str = ""
) -> str | None:
    """The program that a completion states, thoughts left out.

    It is the last code block that defines ``entry``; or else the last one of Python, or the last;
    or the text itself, where it is a program, or goes on from where ``prompt`` ends.

    Args:
        completion: What the model wrote.
        complete: Whether it came to an end by itself.
        thinking: Whether the prompt ended with an opened ``<think>``.
        entry: Name of what the program must define; empty if that is not known.
        prompt: Code that ends where the body of a function begins; empty if there is none.

    Returns:
        None where there is no whole program.
    """
    thought, closed, text = completion.rpartition("</think>")
    if not closed and (thinking or "<think>" in thought + text):
        return None
    blocks = [(language.lower(), code) for language, code in _FENCE.findall(text)]
    blocks = [(tag, code) for tag, code in blocks if tag in ("", *_PYTHON)]
    defining = [code for _, code in blocks if entry and _defines(code, entry)]
    python = [code for tag, code in blocks if tag]
    if defining:
        return defining[-1]
    if blocks:
        code = (python or [code for _, code in blocks])[-1]
        return _continued(code, True, prompt) or code
    if (opened := _OPEN.search(text)) is not None:
        rest = text[opened.end() :].partition("\n")[2]
        return rest if complete and _is_python(rest) else None
    return _bare(text, complete, entry, prompt)


def _bare(text: str, complete: bool, entry: str, prompt: str) -> str | None:
    """A text without code blocks."""
    if (continued := _continued(text, complete, prompt)) is not None:
        return continued
    inner = re.sub(r"</?answer>", "", text).strip("\n")
    is_program = bool(inner.strip()) and _is_python(inner)
    looks = _defines(inner, entry) if entry else re.search(r"\b(print|import|def)\b", inner)
    return inner if complete and is_program and looks else None


def _continued(text: str, complete: bool, prompt: str) -> str | None:
    """Prompt and body, where the text goes on, indented, with the body of its function."""
    lines = text.splitlines(keepends=True)
    first = next((line for line in lines if line.strip()), "")
    if not prompt or not first.startswith((" ", "\t")):
        return None
    inside = (n for n, line in enumerate(lines) if line.strip() and line[0] not in " \t")
    end = next(inside, None)
    if end is None and not complete:
        return None
    begun = prompt if prompt.endswith("\n") else f"{prompt}\n"
    return begun + "".join(lines[:end])


def _defines(code: str, entry: str) -> bool:
    return (
        re.search(
            rf"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+{re.escape(entry)}\b"
            rf"|^{re.escape(entry)}[ \t]*=",
            code,
            re.MULTILINE,
        )
        is not None
    )


def _is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
