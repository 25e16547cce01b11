"""Loggers that a user asks for with ``trainer.logger``: where they write, and when they start.

All of Lightning's and any class derived from its ``Logger``, one or a list; TensorBoard's is there
besides, unless ``tensorboard`` is false. What is given no folder writes to the run's.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from wdl.errors import UserError


def placed(made: type[Logger], options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Options of a logger, with those filled in that say where it writes.

    Files of CSVLogger are then ``csv/`` in ``folder``, those of W&B ``wandb/``; a run of W&B is
    called as ``folder`` is.

    Args:
        made: Its class.
        options: As the user gave them; None where ``save_dir`` is left out.
        folder: Of the run.

    Raises:
        UserError: A key would be written to the run's configuration.
    """
    for name in ("api_key", "api_token"):
        if options.get(name):
            raise UserError(
                f"trainer.logger.{name}: would stand in config.yaml; leave it out, and give it as "
                f"an environment variable that {made.__name__} reads"
            )
    filled: dict[str, Any] = {}
    if "save_dir" in options and options["save_dir"] is None and not options.get("dir"):
        filled["save_dir"] = str(folder)
        given = options.get("version"), options.get("name")
        if issubclass(made, CSVLogger | TensorBoardLogger) and given == (None, "lightning_logs"):
            filled |= {"name": "", "version": made.__name__.removesuffix("Logger").lower()}
    if issubclass(made, WandbLogger) and options["name"] is None:
        here = folder.is_relative_to(Path.cwd())
        filled["name"] = str(folder.relative_to(Path.cwd()) if here else folder)
    return {**options, **filled}


def check_apart(loggers: Iterable[Logger]) -> None:
    """Make sure that no two of them write to the same folder.

    Raises:
        UserError: Names the folder.
    """
    of_files = [one for one in loggers if isinstance(one, CSVLogger | TensorBoardLogger)]
    (folder, number), *_ = Counter(one.log_dir for one in of_files).most_common(1) or [("", 0)]
    if number > 1:
        raise UserError(
            f"trainer.logger: {number} loggers write to {folder}; give each a version of its own"
        )


def start(loggers: Iterable[Logger]) -> None:
    """Let them begin their runs, so that what is wrong shows before anything is loaded.

    Raises:
        UserError: One of them cannot: there is no login, no network, no right to write.
    """
    for logger in loggers:
        try:
            _ = getattr(logger, "experiment", None)
        except Exception as error:  # of a library that is the user's choice
            raise UserError(f"trainer.logger: {type(logger).__name__}: {error}") from error
