"""``wdl pipeline status --full true``: whether what the stages need is there, and what is next.

Hub names and addresses are asked for no more than whether they are there.
"""

import http.client
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from wdl.errors import UserError
from wdl.pipeline.inputs import candidates
from wdl.pipeline.plan import Pipeline, turns

SECONDS = 5
GB = 1e9
ADDRESS = re.compile("https?://")


def print_checks(pipeline: Pipeline, root: Path) -> None:
    """Print what was looked for, and what would run next.

    Raises:
        UserError: One line for each thing that is missing or broken.
    """
    inputs = pipeline.inputs(frozenset())
    faults: list[str] = []
    try:
        pipeline.check()
    except UserError as error:
        faults += error.faults
    seen = set()
    for step, reads in zip(inputs.steps, inputs.reads, strict=True):
        addresses = {} if step.skip else inputs.fingerprints.addresses(step)
        subjects = [(name, str(path)) for name in reads for path in candidates([reads[name]])]
        for option, subject in [*subjects, *addresses.items()]:
            if subject in seen or not _can_be_there(subject):
                continue
            seen.add(subject)
            try:
                print(f"{_look(subject, f'stage {step.name}: {option}'):<12} {subject}")
            except UserError as error:
                print(f"{'NOT SOUND':<12} {subject}")
                faults += error.faults
    place = next(folder for folder in (root, *root.parents) if folder.is_dir())
    print(f"{shutil.disk_usage(place).free / GB:.1f} GB free at {place}")
    print(_next(pipeline, root))
    if faults:
        raise UserError(*faults)


def _can_be_there(subject: str) -> bool:
    """Not so the names of models in a list of them, and what a stage is yet to write."""
    path = Path(subject)
    return path.exists() if path.is_absolute() else "/" in subject


def _look(subject: str, where: str) -> str:
    """How it is found: a path, a hub name or an address.

    Raises:
        UserError: It is not there, or of no use.
    """
    if ADDRESS.match(subject):
        answer = _answer(subject)
        if isinstance(answer, str):
            raise UserError(f"{where}: {subject} does not answer ({answer}); start what serves it")
        return f"answers {answer}"
    if not Path(subject).is_absolute():
        return _on_hub(subject, where)
    if not (Path(subject) / "config.json").is_file():
        return "there"
    from wdl.branches.sources import check_source

    check_source(subject, where)
    return "sound model"


def _answer(address: str, headers: Mapping[str, str] | None = None) -> int | str:
    """The HTTP status that an address answers with, or why it does not answer."""
    request = urllib.request.Request(address, headers=dict(headers or {}), method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(error)


def _on_hub(name: str, where: str) -> str:
    """Where a model or data set of the hub would come from."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    repository = name.partition(":")[0]
    cached = repository.replace("/", "--")
    answers: list[int | str] = []
    for kind in ("model", "dataset"):
        if (Path(constants.HF_HUB_CACHE) / f"{kind}s--{cached}").is_dir():
            return "in the cache"
        if constants.HF_HUB_OFFLINE:
            answers.append("HF_HUB_OFFLINE is set")
        else:
            address = f"{constants.ENDPOINT}/api/{kind}s/{repository}"
            answers.append(_answer(address, build_hf_headers()))
        if answers[-1] == http.HTTPStatus.OK:
            return "on the hub"
    raise UserError(f"{where}: {name} is not to be had from the hub ({answers[0]})")


def _next(pipeline: Pipeline, root: Path) -> str:
    for turn in turns(pipeline, root):
        does, why = turn.decision
        if does == "run":
            return f"next: {turn.step.name}, as {why}: {turn.step.shown(turn.step.words)}"
    return "next: nothing, all stages are done"
