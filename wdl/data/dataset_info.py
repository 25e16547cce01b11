"""Data sets that LLaMA-Factory's ``dataset_info.json`` lists, read as it reads them.

``data.path`` is the folder with that file, which stands for all the sets in it, or names some:
``FOLDER:NAME`` or ``FOLDER:NAME,NAME``. A set says where its rows are and what their keys mean:

    {"judged": {"file_name": "judged.json", "formatting": "sharegpt", "ranking": false,
                "columns": {"messages": "conversations", "images": "images"},
                "tags": {"role_tag": "from", "user_tag": "human"}}}

Its rows get the keys that :mod:`wdl.data.schemas` knows, and are checked there. As for
LLaMA-Factory, columns that a set with "columns" does not name are not read, and pictures are
relative to the folder of ``dataset_info.json``.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wdl.errors import UserError
from wdl.system.digests import files_digest, value_digest

LISTING = "dataset_info.json"
SETTINGS = ("file_name", "formatting", "ranking", "columns", "tags")
ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
BOTH = {key: key for key in ("system", "tools", "images", "chosen", "rejected")}
COLUMNS = {
    "alpaca": {
        **{"prompt": "instruction", "query": "input", "response": "output", "history": "history"},
        **BOTH,
    },
    "sharegpt": {"messages": "messages", **BOTH},
}
"""What each formatting calls a column, and the key that it gets."""
UNNAMED = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
    "sharegpt": {"messages": "conversations"},
}
"""The columns of a set that names none."""
TAGS = {
    **{"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"},
    **{"observation_tag": "observation", "function_tag": "function_call", "system_tag": "system"},
}
# a function's call gets a role that is refused
ROLES = {
    **{"user_tag": "user", "assistant_tag": "assistant", "observation_tag": "tool"},
    **{"function_tag": "function_call", "system_tag": "system"},
}
MESSAGE = ("role", "content", "from", "value")


@dataclass(frozen=True)
class ListedSet:
    """One set of a listing.

    Args:
        place: Where the listing says so.
        file: Its rows, or a folder of files with them.
        folder: What its pictures are relative to.
        keys: The key that each column gets.
        tags: How its messages are spelt; None for texts.
        ranking: Whether its rows hold preferences.
    """

    place: str
    file: Path
    folder: Path
    keys: Mapping[str, str]
    tags: Mapping[str, str] | None
    ranking: bool

    def __str__(self) -> str:
        return str(self.file)

    def digest(self) -> str:
        """SHA-256 of the file and of what the listing says of it."""
        return value_digest([files_digest([self.file]), self.keys, self.tags, self.ranking])

    def refuse_other(self, ranking: bool) -> None:
        """Refuse to be read as data of the other kind.

        Raises:
            UserError: It is, so none of its rows would do.
        """
        if self.ranking and not ranking:
            raise UserError(
                f"{self.place} holds preferences (ranking: true); train on them with dpo.yaml, or "
                "name another set"
            )
        if ranking and not self.ranking:
            raise UserError(
                f"{self.place} holds no preferences (ranking is not true); train on it with "
                "sft.yaml or joint.yaml, or name another set"
            )

    def renamed(self, row: Any) -> Any:
        """A row with the keys that its columns get; what is wrong with it stays so."""
        if not isinstance(row, dict):
            return row
        keys = {"idx": "idx", **self.keys}
        own = {key: row[column] for column, key in keys.items() if column in row}
        if self.tags is None:
            return own
        for key in own.keys() & {"messages", "chosen", "rejected"}:
            if isinstance(own[key], list):
                own[key] = [_message(one, self.tags) for one in own[key]]
            else:
                own[key] = _message(own[key], self.tags)
        return own


def _message(message: Any, tags: Mapping[str, str]) -> Any:
    if not isinstance(message, dict):
        return message
    role, text = (message.get(tags[tag]) for tag in ("role_tag", "content_tag"))
    others = {k: v for k, v in message.items() if k not in (*MESSAGE, *tags.values())}
    roles = {tags[tag]: name for tag, name in ROLES.items()}
    return {**others, "role": roles.get(role, role) if isinstance(role, str) else role,
            "content": text}  # fmt: skip


def listed_sets(path: str) -> list[ListedSet] | None:
    """The sets that ``path`` stands for; None if it means no listing.

    Raises:
        UserError: The listing cannot be read, or one line for each thing in it that is not.
    """
    folder, _, names = ("", "", "") if os.path.exists(path) else path.rpartition(":")
    file = Path(folder or path)
    file = file if file.name == LISTING else file / LISTING
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    try:
        listing = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise UserError(f"{file}:{line}: broken JSON ({error}); mend the file") from None
    if not isinstance(listing, dict) or not all(isinstance(one, dict) for one in listing.values()):
        if not names and file != Path(path):  # a folder of the datasets library has such a file too
            return None
        raise UserError(f"{file}:1: it lists no data sets; write {{NAME: {{file_name: ...}}}}")
    sets, faults = [], []
    for name in map(str.strip, names.split(",")) if names else listing:
        line = 1 + text.count("\n", 0, max(text.find(json.dumps(name, ensure_ascii=False)), 0))
        try:
            if name not in listing:
                known = ", ".join(listing) or "none"
                raise ValueError(f"there is no such set, only {known}; check data.path")
            sets.append(_listed_set(f"{file}:{line}: {name!r}", file.parent, listing[name]))
        except ValueError as fault:
            faults.append(f"{file}:{line}: {name!r}: {fault}")
    if faults or not sets:
        raise UserError(*(faults or [f"{file}:1: it lists no data sets; give it one"]))
    return sets


def _listed_set(place: str, folder: Path, said: dict[str, Any]) -> ListedSet:
    """What a listing says of a set, checked; ValueError says what is wrong."""
    for key in said.keys() - {*SETTINGS}:
        if key in ELSEWHERE:
            raise ValueError(f"{key} is not followed; download it, or give its name to data.path")
        raise ValueError(f"{key!r} is not read; drop it, or do to the file what it asks for")
    name, formatting = said.get("file_name"), said.get("formatting", "alpaca")
    if not isinstance(name, str) or not name.strip():
        raise ValueError("it has no file_name; give it one")
    if not (folder / name).exists():
        raise ValueError(f"there is no file {folder / name}; check file_name")
    if not isinstance(formatting, str) or formatting not in COLUMNS:
        raise ValueError(f"formatting {formatting!r} is not read; use {' or '.join(COLUMNS)}")
    ranking = said.get("ranking", False)
    if not isinstance(ranking, bool):
        raise ValueError(f"ranking is {ranking!r}; write true or false")
    columns = _names(said, "columns", COLUMNS[formatting]) or UNNAMED[formatting]
    tags = {**TAGS, **_names(said, "tags", TAGS)}
    if formatting == "alpaca" and "tags" in said:
        raise ValueError("tags are those of messages; drop them, or take formatting sharegpt")
    if len({tags[tag] for tag in ROLES}) < len(ROLES):
        raise ValueError("two roles have the same tag; let them differ")
    question, *answer = [column for column in UNNAMED[formatting] if column != "query"]
    for column in (question, *(("chosen", "rejected") if ranking else answer)):
        if column not in columns:
            raise ValueError(f"columns does not say which is {column!r}; add it")
    if not ranking and {"chosen", "rejected"} & {*columns}:
        raise ValueError('chosen and rejected need "ranking": true; add it or drop them')
    keys = {columns[column]: COLUMNS[formatting][column] for column in columns}
    if len(keys) < len(columns):
        raise ValueError("two columns have the same name; let them differ")
    return ListedSet(
        place, folder / name, folder, keys, tags if formatting == "sharegpt" else None, ranking
    )


def _names(said: dict[str, Any], key: str, known: Mapping[str, str]) -> dict[str, str]:
    """The names at ``key``."""
    names = said.get(key, {})
    if not isinstance(names, dict):
        raise ValueError(f"{key} must be an object of names")
    for name, value in names.items():
        if name not in known:
            raise ValueError(f"{name!r} in {key} is not read; use {', '.join(known)}")
        if not isinstance(value, str) or not value:
            raise ValueError(f"{name!r} in {key} must be a name")
    return names
