"""Answers that are in a journal as soon as they are there, and are never made twice."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tqdm import tqdm

from wdl.generation.engine import Engine, Request, Sampling
from wdl.system.journal import Journal


def answer(
    engine: Engine, requests: Sequence[Request], sampling: Sampling, journal: Journal, title: str
) -> list[dict[str, Any]]:
    """The generations, as dictionaries, in the order of ``requests``; shows progress.

    Raises:
        ChildFailure: The engine crashed or hung. What it had finished is in the journal.
    """
    entries = {(entry["id"], entry["sample"]): entry for entry in journal.entries()}
    if len(entries) < len(requests):
        with tqdm(total=len(requests), initial=len(entries), desc=title, unit="answer") as bar:
            for ready in engine.generate(requests, sampling, set(entries)):
                written = [asdict(generation) for generation in ready]
                journal.append(written)
                entries |= {(entry["id"], entry["sample"]): entry for entry in written}
                bar.update(len(written))
    return [entries[request.key] for request in requests]
