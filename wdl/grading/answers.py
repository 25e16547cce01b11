r"""Where in a completion its answer stands.

The paper's format is ``<think>...</think> <answer>...\boxed{}...</answer>``: the answer is the
last ``\boxed{}`` after the thinking. Completions in other formats are read as a person would: the
contents of the ``<answer>`` tags, or what follows a last "the answer is".
"""

import re

_THINK, _END_OF_THINK = "<think>", "</think>"
# With braces, or as TeX allows around a single character without.
_BOX = re.compile(r"\\f?boxed(?:\s*(?=\{)|\s*(\w))")
_STATEMENT = re.compile(r"\banswer\s*(?:is|:|=)\s*:?\s*(.+)", re.IGNORECASE)


def find_answer(completion: str, complete: bool) -> str | None:
    """What a completion states as its answer.

    Args:
        completion: All that the model generated.
        complete: Whether it ended by itself. Thinking that was cut off states nothing yet.

    Returns:
        The answer without its box or tags, or None if there is none. An empty box is an empty
        answer.
    """
    _, closed, rest = completion.rpartition(_END_OF_THINK)
    if not closed and not complete and _THINK in completion:
        return None
    final = rest if closed else completion
    boxed = last_boxed(final, complete)
    if boxed is not None:
        return boxed
    opened, tagged, _ = final.rpartition("</answer>")
    if tagged and "<answer>" in opened:
        final = opened.rpartition("<answer>")[2]
        return _stated(final) or final.strip()
    return _stated(final)


def last_boxed(text: str, complete: bool = True) -> str | None:
    r"""Contents of the last ``\boxed{}``, of the innermost one if boxes are nested.

    Args:
        text: Where to look.
        complete: Whether the text ended by itself. If so, a box that was never closed holds the
            rest of its line; otherwise the answer was still being written, and there is none.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    box = boxes[-1]
    if box[1]:
        return box[1]
    contents = _braced(text, box.end())
    if contents is None and complete:
        contents = re.split(r"[\n$<]|\\[)\]]", text[box.end() + 1 :])[0]
    return None if contents is None else contents.strip()


def _braced(text: str, start: int) -> str | None:
    """What stands between the brace at ``start`` and its partner, or None without a partner."""
    depth = 0
    escaped = False
    for position in range(start, len(text)):
        character = text[position]
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character in "{}":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return text[start + 1 : position]
    return None


def _stated(text: str) -> str | None:
    """What follows the last "the answer is" up to the end of its sentence."""
    statements = _STATEMENT.findall(text)
    if not statements:
        return None
    sentence = re.split(r"\.(?:\s|$)", statements[-1])[0]
    return sentence.strip().strip("*").strip() or None
