"""Graded answers as one HTML file to read in a browser, which needs no server and no network.

The file holds every answer, packed (zlib, base64), and the script that unpacks and lists them. What
models wrote gets into the page as text only, and a policy forbids all scripts but the file's own.
The same results give the same file byte for byte.
"""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from wdl.system.files import write_lines

PART = 4_000_000
"""Characters of JSON in one part; browsers unpack parts one by one and limit how long a text is."""

Records = Mapping[str, Mapping[str, dict[str, Any]]]


@dataclass(frozen=True)
class Results:
    """What a page shows.

    Args:
        folders: Where the answers of each model are, by its label: ``BENCHMARK.jsonl``.
        records: By label and benchmark, with ``results`` and ``inputs``.
        compared: Comparisons with the first model, as ``wdl compare`` writes them.
        notes: What else a reader should know, such as models that failed.
    """

    folders: Mapping[str, Path]
    records: Records
    compared: Sequence[dict[str, Any]] = ()
    notes: Sequence[str] = ()


def write_page(results: Results, path: Path) -> None:
    """Write ``path``, atomically; answers that cannot be read are named there."""
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    before, after = template.replace("{{policy}}", _policy(template)).split("{{data}}\n")
    faults: list[str] = []
    parts = [_packed(part) for part in _parts(results, faults)]
    about = _packed(json.dumps(_about(results, faults)))
    write_lines(path, [before.rstrip("\n"), about, *parts, after.rstrip("\n")])


def _policy(template: str) -> str:
    """Nothing from elsewhere, and of what is in the page only the style and script it came with."""
    allowed = {}
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
        digest = hashlib.sha256(text.encode()).digest()
        allowed[tag] = f"'sha256-{base64.b64encode(digest).decode()}'"
    rules = [f"{tag}-src {digest}" for tag, digest in allowed.items()]
    return "; ".join(["default-src 'none'", *rules, "base-uri 'none'", "form-action 'none'"])


def _packed(text: str) -> str:
    """JSON, which is ASCII, as an element of the page that holds letters and digits alone."""
    packed = base64.b64encode(zlib.compress(text.encode("ascii"))).decode()
    return f'<script type="text/plain" class="data">{packed}</script>'


def _about(results: Results, faults: Sequence[str]) -> dict[str, Any]:
    records = results.records
    protocols: dict[str, dict[str, Any]] = {}
    for of_model in records.values():
        for benchmark, record in of_model.items():
            protocol = record["inputs"].get("protocol", {})
            entry = {"protocol": protocol, "benchmarks": []}
            named = protocols.setdefault(json.dumps(protocol), entry)["benchmarks"]
            named += [benchmark] if benchmark not in named else []
    return {
        "models": list(records),
        "benchmarks": list(
            dict.fromkeys(name for of_model in records.values() for name in of_model)
        ),
        "protocols": list(protocols.values()),
        "inputs": _inputs(records),
        "results": [
            {name: record["results"] for name, record in of_model.items()}
            for of_model in records.values()
        ],
        "compared": list(results.compared),
        "notes": [*results.notes, *faults],
    }


def _inputs(records: Records) -> list[dict[str, Any]]:
    """What decided about the answers, by name, and whether it is the same for all models."""
    found: dict[str, list[Any]] = {}
    for number, of_model in enumerate(records.values()):
        for benchmark, record in of_model.items():
            for name, value in record["inputs"].items():
                if name != "protocol":
                    row = found.setdefault(f"{benchmark}: {name}", [None] * len(records))
                    row[number] = value
    return [
        {"name": name, "values": values, "differs": any(value != values[0] for value in values)}
        for name, values in found.items()
    ]


def _parts(results: Results, faults: list[str]) -> Iterator[str]:
    """JSON of all problems and answers, in pieces; ``faults`` gets what cannot be read."""
    names = dict.fromkeys(name for of_model in results.records.values() for name in of_model)
    for benchmark in names:
        problems: dict[str, str] = {}
        for number, (label, of_model) in enumerate(results.records.items()):
            if benchmark in of_model:
                file = results.folders[label] / f"{benchmark}.jsonl"
                rows = _rows(file, benchmark, number, problems, faults)
                yield from _pieces("answers", rows)
        yield from _pieces("problems", problems.values())


def _rows(
    file: Path, benchmark: str, model: int, problems: dict[str, str], faults: list[str]
) -> Iterator[str]:
    """The answers in a file as JSON; their problems, once for all models, go to ``problems``."""
    try:
        lines = file.open("rb")
    except OSError as error:
        faults.append(f"{file}: its answers are not in this page ({error.strerror})")
        return
    with lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                name = row["id"]
                of_answer = (row["id"], row["sample"], row["status"])
            except (ValueError, KeyError, TypeError):
                faults.append(f"{file}:{number}: it is no graded answer and not in this page")
                continue
            if name not in problems:
                asked = (row.get("question"), row.get("reference"), row.get("images", []))
                problems[name] = json.dumps([benchmark, name, *asked])
            more = ("answer", "detail", "finish_reason", "new_tokens", "completion")
            yield json.dumps([benchmark, model, *of_answer, *map(row.get, more)])


def _pieces(kind: str, rows: Iterable[str]) -> Iterator[str]:
    """Rows of one kind as parts of about :data:`PART` characters."""
    piece: list[str] = []
    size = 0
    for row in rows:
        piece.append(row)
        size += len(row)
        if size > PART:
            yield _piece(kind, piece)
            piece, size = [], 0
    if piece:
        yield _piece(kind, piece)


def _piece(kind: str, rows: Sequence[str]) -> str:
    return f'{{"kind": "{kind}", "rows": [{", ".join(rows)}]}}'
