"""The page that comes with an exported model and says how it was made."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def model_card(made: Mapping[str, Any]) -> str:
    """Markdown with the metadata of the model hub in front.

    Args:
        made: What checkpoints keep of how they were made, see ``Pair.made``.
    """
    from huggingface_hub import ModelCardData

    sources = [made[name] for name in ("strong", "weak") if made.get(name)]
    header = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=[source for source in sources if not os.path.isabs(source)] or None,
        tags=list(made.get("tags", ())),
    )
    how = [made["method"]] if "method" in made else []
    tables = [f"## {title}\n\n{_table(values)}" for title, values in _sections(made) if values]
    page = [f"---\n{header.to_yaml()}\n---", "# How this model was made", *how, *tables]
    return "\n\n".join(page) + "\n"


def _sections(made: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    nested = {"data": "Data", "metrics": "Validation"}
    apart = {*nested, "method", "tags"}
    plain = {name: value for name, value in made.items() if name not in apart}
    return [("Training", plain), *((nested[name], made.get(name, {})) for name in nested)]


def _table(values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_shown(value)} |" for name, value in values.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _shown(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    if os.path.isabs(text):  # a page for others: no names of home folders
        path = Path(text)
        text = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path.name)
    return text.replace("|", "\\|")
