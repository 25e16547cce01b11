"""What the keys beside a stage's command may hold."""

import math
from collections.abc import Mapping
from typing import Any

from wdl.system.outcome import VARIABLE

NEEDED = {"name", "command"}
RETRIES = "a number from 0 up, or {count: 2, wait: 30}, where wait is in seconds"


def read_keys(stage: Mapping[str, Any], rounds: int) -> tuple[dict[str, Any], list[str]]:
    """What ``retries``, ``from_round``, ``on_failure`` and ``environment`` say.

    Args:
        stage: As in the YAML; what it does not say is as by default.
        rounds: Number of rounds that it is repeated in; 0 outside of rounds.

    Returns:
        ``retries`` and ``wait``, ``from_round``, ``skippable`` and ``environment``; and a text for
        each fault, which begins with the key.
    """
    retries = stage.get("retries", 0)
    count, wait = (
        (retries.get("count"), retries.get("wait", 0))
        if isinstance(retries, dict)
        else (retries, 0)
    )
    from_round = stage.get("from_round", 1)
    on_failure = stage.get("on_failure", "stop")
    environment = stage.get("environment", {})
    faults = []
    if (
        (isinstance(retries, dict) and not retries.keys() <= {"count", "wait"})
        or not _is_number(count, int)
        or not _is_number(wait, int, float)
    ):
        faults.append(f"retries: {retries!r} must be {RETRIES}")
    if "from_round" in stage and not rounds:
        faults.append("from_round: the stage is in no group with rounds; drop it")
    elif type(from_round) is not int or not 1 <= from_round <= max(rounds, 1):
        faults.append(f"from_round: {from_round!r} must be one of the rounds, 1 to {rounds}")
    if on_failure not in ("stop", "skip"):
        faults.append(f"on_failure: {on_failure!r} must be stop or skip")
    if not isinstance(environment, dict):
        faults.append(f"environment: {environment!r} must give names of variables a text")
        environment = {}
    for name, value in environment.items():
        if not isinstance(name, str) or not name or "=" in name or name == VARIABLE:
            faults.append(f"environment: {name!r} cannot be the name of a variable")
        elif not isinstance(value, str):
            faults.append(f'environment: {name}: {value!r} must be a text; put it in quotes, "..."')
        elif "\0" in name + value:
            faults.append(f"environment: {name!r}: must be free of zero characters")
    found = {
        "retries": count,
        "wait": wait,
        "from_round": from_round,
        "skippable": on_failure == "skip",
        "environment": environment,
    }
    return found, faults


def _is_number(value: Any, *kinds: type) -> bool:
    """Whether it is one from 0 up; True and infinity are none."""
    return type(value) in kinds and 0 <= value < math.inf
