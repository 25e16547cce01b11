r"""Where in a completion its answer stands.

The paper's format is ``<think>...</think> <answer>...\boxed{}...</answer>``: the answer is the
last ``\boxed{}`` after the thinking. Completions in other formats are read as a person would: the
contents of the ``<answer>`` tags, what follows a last "the answer is", or all, if it is a formula.
"""

import re

from wdl.grading.notation import BOLD, WRAPPERS

_THINK, _END_OF_THINK = "<think>", "</think>"
# With braces, or as TeX allows around a single character without.
_BOX = re.compile(r"\\f?boxed(?:\s*(?=\{)|\s*(\w))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
# What may stand between boxes that are one answer: "and", "or", a comma, a name such as "x =".
_BETWEEN = re.compile(
    r"(?=.*(?:,|\band\b|\bor\b))"
    r"(?:[\s$,]|\\[,;: ()\[\]]|\\q?quad\b|\band\b|\bor\b|(?<![\w\\])\w\s*="
    r"|\\(?:text|mathrm|textrm|mbox)\s*\{[\s,]*(?:and|or)?[\s,]*\}){,30}",
    re.DOTALL,
)
_NAME = re.compile(r"(?<![\w\\])\w\s*=\s*$")
_ADVERBS = r"(?:,?\s+(?:therefore|thus|then|just|only|indeed|equal to|given by|about|\w+ly)\b,?)*"
_STATEMENT = re.compile(
    r"\banswers?(?: (?:to|of|for)\b[^.:\n]{1,80}?)?[*_\s]*"
    rf"(?:\b(?:is|are|equals|(?:must|should|would|will) be)\b{_ADVERBS}|:|=)"
    rf"|\b(?:correct|right|best|final) (?:option|choice)[*_\s]*(?:\bis\b{_ADVERBS}|:)"
    r"|^[#*_ \t]*(?:the |my )?(?:final |correct )?answer[*_ \t]*\n",
    re.IGNORECASE | re.MULTILINE,
)
_DISPLAYED = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]", re.DOTALL)
_END_OF_SENTENCE = re.compile(r"\.(?=[*_\"')$]*(?:\s|$))")
# "I hope that this answer is correct" states no answer.
_NO_VALUE = re.compile(
    r"(?:also |now )?(?:not|correct|right|wrong|incorrect|verified|valid|confirmed|consistent"
    r"|reasonable|unique|clear|as follows|below|above)\b",
    re.IGNORECASE,
)
_FORMULA = re.compile(
    r"\$+[^$]+\$+\.?|\\\((?:(?!\\\)).)+\\\)\.?|\\\[(?:(?!\\\]).)+\\\]|\S+", re.DOTALL
)
# Sentences around a value: "The smallest k is 17", "$17$ because it fits", "There are 17 ways".
_REASON = re.compile(r"[\s,;(–—-]{1,5}(?:because|since|due to)\b.*", re.DOTALL)
_VERB = re.compile(rf".*\b(?:is|are|was|were|be|equals?)\b{_ADVERBS}[\s:]*(?=\S)", re.DOTALL)
_INLINE = r"\$[^$]+\$|\\\(.+?\\\)"
_PROSE = r"(?:[A-Za-z\s,.;:'\"!?()]|(?<=[a-z])-(?=[a-z]))*"
_VALUE = re.compile(
    rf"({_PROSE})(?<!\w)({_INLINE}|[$€£]?[-−–]?\d[\d,.]*(?:/\d+)?%?)(?!\w)({_PROSE})"
)
_WORD = re.compile(r"(?<!\\)\b[A-Za-z]{2,}\b")
# Next to these a number is not what its sentence states.
_OTHERWISE = re.compile(
    r"\b(?:not?|none|never|nor|or|wrong|incorrect|less|fewer|more|greater|larger|smaller|below"
    r"|above|under|over|than|least|most|between|half|third|quarter|twice|double|triple|times"
    r"|dozens?|hundred|thousand|million|billion|plus|minus|divided|multiplied|squared|cubed"
    r"|cannot|\w+n't|(?!I\b|a\b|A\b)[A-Za-z])\b(?!')",
    re.IGNORECASE,
)


def find_answer(completion: str, complete: bool, thinking: bool = False) -> str | None:
    """What a completion states as its answer.

    Args:
        completion: All that the model generated.
        complete: Whether it ended by itself. Thinking that was cut off states nothing yet.
        thinking: Whether the prompt has opened the thinking; until it is closed, nothing is stated.

    Returns:
        The answer without its box or tags, or None if there is none. An empty box is an empty
        answer.
    """
    _, closed, rest = completion.rpartition(_END_OF_THINK)
    unfinished = not closed and (thinking or _THINK in completion)
    if unfinished and (thinking or not complete):
        return None
    final = rest if closed else completion
    boxed = last_boxed(final, complete)
    if boxed is not None:
        return boxed
    opened, tagged, _ = final.rpartition("</answer>")
    if tagged and "<answer>" in opened:
        final = opened.rpartition("<answer>")[2]
        return _stated(final) or final.strip()
    if unfinished:
        return None
    alone = final.strip() if complete and _FORMULA.fullmatch(final.strip()) else None
    return _stated(final) or alone


def tagged_answer(completion: str, complete: bool, thinking: bool = False) -> str | None:
    """What stands between the last ``<answer>`` tags behind the thinking, or in a box there.

    For answers that are words, which all the rest of a completion might say, too. Arguments as of
    :func:`find_answer`.
    """
    _, closed, rest = completion.rpartition(_END_OF_THINK)
    if not closed and (thinking or _THINK in completion):
        return None
    final = rest if closed else completion
    before, closing, _ = final.rpartition("</answer>")
    _, opening, answer = before.rpartition("<answer>")
    tagged = bool(closing and opening)
    boxed = last_boxed(answer if tagged else final, complete)
    return answer.strip() if tagged and boxed is None else boxed


def last_boxed(text: str, complete: bool = True) -> str | None:
    r"""Contents of the last ``\boxed{}``, of the innermost one if boxes are nested.

    Boxes with no more than "and", "or" or a comma between them are one answer, a list.

    Args:
        text: Where to look.
        complete: Whether the text ended by itself. If so, a box that was never closed holds the
            rest of its line; otherwise the answer was still being written, and there is none.
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    last = boxes.pop()
    contents = _contents(text, last)
    if contents is None:
        return re.split(r"[\n$<]|\\[)\]]", text[last.end() + 1 :])[0].strip() if complete else None
    answers, start = [contents[0]], last.start()
    while boxes:
        box = boxes.pop()
        earlier = _contents(text, box)
        if earlier is None or not _BETWEEN.fullmatch(text, earlier[1], max(earlier[1], start)):
            break
        answers[-1] = _name_before(text, start) + answers[-1]
        answers.append(earlier[0])
        start = box.start()
    if len(answers) > 1:
        answers[-1] = _name_before(text, start) + answers[-1]
    return ", ".join(dict.fromkeys(reversed(answers)))


def value_in(answer: str) -> str:
    """The value, if the answer is a sentence around one; otherwise the answer."""
    prose = WRAPPERS.sub(r" \1 ", answer).strip()
    claim = _REASON.sub("", prose)
    verb = _VERB.match(claim)
    rest = claim[verb.end() :] if verb else claim
    value = _VALUE.fullmatch(rest)
    if value:
        around = f"{value[1]} {value[3]}"
        leads = not value[1].strip() and value[2][0] in "$\\"
        if (leads or len(_WORD.findall(around)) > 1) and not _OTHERWISE.search(around):
            return value[2]
    return answer if rest == prose else rest


def _contents(text: str, box: re.Match[str]) -> tuple[str, int] | None:
    """What stands in a box, and where the box ends; None if it is never closed."""
    if box[1]:
        return box[1], box.end()
    depth = 0
    for brace in _BRACE.finditer(text, box.end()):
        depth += (brace[0] == "{") - (brace[0] == "}")
        if depth == 0:
            return text[box.end() + 1 : brace.start()].strip(), brace.end()
    return None


def _name_before(text: str, position: int) -> str:
    """The "x = " that ends at a position, if there is one."""
    name = _NAME.search(text[max(0, position - 10) : position])
    return name[0] if name else ""


def _stated(text: str) -> str | None:
    """What follows the last "the answer is" that has something to follow it."""
    text = BOLD.sub(r"\1", text)
    end = len(text)
    for statement in reversed(list(_STATEMENT.finditer(text))):
        rest = text[statement.end() : end].lstrip(" \t\n*_:")
        displayed = _DISPLAYED.match(rest)
        line = displayed[1] or displayed[2] if displayed else rest.partition("\n")[0]
        stated = _END_OF_SENTENCE.split(line.strip())[0].strip().strip("*").strip()
        if stated and not _NO_VALUE.match(stated):
            return stated
        end = statement.start()
    return None
