"""Answers that are in a journal as soon as they are there, and are never made twice."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from tqdm import tqdm

from wdl.generation.cache import AnswerCache, content_keys
from wdl.generation.engine import Engine, Request, Sampling
from wdl.system.journal import Journal


def answer(
    engine: Engine,
    requests: Sequence[Request],
    sampling: Sampling,
    journal: Journal,
    title: str,
    cache: AnswerCache | None = None,
    described: Mapping[str, Any] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """The generations, as dictionaries, in the order of ``requests``; shows progress.

    Those that ``cache`` has of the model and engine that are ``described`` are not made again.

    Raises:
        ChildFailure: The engine crashed or hung. What it had finished is in the journal.
    """
    entries = {(entry["id"], entry["sample"]): entry for entry in journal.entries()}
    keys = {} if cache is None else content_keys(described, requests, sampling)
    if cache is not None:
        missing = {key: content for key, content in keys.items() if key not in entries}
        known = cache.find(missing)
        journal.append(known)
        entries |= {(entry["id"], entry["sample"]): entry for entry in known}
        if known:
            print(f"{title}: {len(known)} of {len(requests)} answers are in {cache.path}")
    if len(entries) < len(requests):
        with tqdm(total=len(requests), initial=len(entries), desc=title, unit="answer") as bar:
            for ready in engine.generate(requests, sampling, set(entries)):
                written = [asdict(generation) for generation in ready]
                journal.append(written)
                if cache is not None:
                    cache.add(keys, written)
                entries |= {(entry["id"], entry["sample"]): entry for entry in written}
                bar.update(len(written))
    return [entries[request.key] for request in requests]
