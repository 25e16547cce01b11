"""What has become of a stage, as ``stage.json`` in its folder."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from wdl.system.files import write_json

FILE = "stage.json"
LOG = "log.txt"
OUTCOME = "outcome.json"

# Of "running" only a running pipeline can say that it is true.
State = Literal["running", "done", "failed", "stopped", "skipped"]


@dataclass(frozen=True)
class Record:
    """One stage's runs on the same inputs.

    Args:
        inputs: Digest of what it depends on; nothing where it was never to run.
        command: What was run, as one would type it.
        state: How it stands; stopped is by a signal, skipped is what the pipeline does without.
        attempts: Processes that were started.
        seconds: Duration of those that have ended, together.
        began: When the last one was started, ISO 8601.
        ended: When it ended, or None.
        exit_code: Its exit code, or None.
        failures: Exit codes of the attempts that failed.
        reason: Why it is skipped.
    """

    inputs: str
    command: str
    state: State = "running"
    attempts: int = 0
    seconds: float = 0.0
    began: str | None = None
    ended: str | None = None
    exit_code: int | None = None
    failures: Sequence[int] = ()
    reason: str = ""

    @classmethod
    def read(cls, folder: Path) -> "Record | None":
        """The record in a stage's folder, if there is one."""
        file = folder / FILE
        return cls(**json.loads(file.read_text())) if file.is_file() else None

    def write(self, folder: Path) -> None:
        """Write it to the stage's folder, atomically."""
        write_json(folder / FILE, asdict(self))

    def begin(self, folder: Path) -> "Record":
        """One more attempt, in the stage's folder."""
        return replace(
            self,
            state="running",
            attempts=self.attempts + 1,
            seconds=self.seconds + self._unseen_seconds(folder / LOG),
            began=now().isoformat(),
            ended=None,
            exit_code=None,
        )

    def _unseen_seconds(self, log: Path) -> float:
        """Duration of an attempt whose end nobody saw: until its last output."""
        if self.state != "running" or self.began is None or not log.is_file():
            return 0.0
        began = datetime.fromisoformat(self.began).timestamp()
        return max(0.0, log.stat().st_mtime - began)

    def end(self, exit_code: int, stopped: bool) -> "Record":
        """The attempt is over, perhaps because it was stopped by a signal."""
        assert self.began is not None
        state: State = "done" if exit_code == 0 else "stopped" if stopped else "failed"
        seconds = self.seconds + (now() - datetime.fromisoformat(self.began)).total_seconds()
        return replace(
            self,
            state=state,
            seconds=round(seconds, 1),
            ended=now().isoformat(),
            exit_code=exit_code,
            failures=[*self.failures, exit_code] if state == "failed" else self.failures,
        )

    @property
    def identity(self) -> str:
        """Tells this run of the stage from any other, on the same inputs too."""
        return hashlib.sha256(f"{self.inputs}\0{self.ended}".encode()).hexdigest()


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)
