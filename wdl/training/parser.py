"""The options of a run: those of Lightning's classes, with the defaults that this project means."""

from collections.abc import Iterator
from inspect import signature
from typing import Any, ClassVar

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger

from wdl.config.fit_help import brief
from wdl.config.parser import PlainParser
from wdl.data.weak_driven import WeakDrivenDataModule
from wdl.training.weak_driven import WeakDrivenModule

DEFAULTS: dict[str, type] = {"model": WeakDrivenModule, "data": WeakDrivenDataModule}
"""Classes that a configuration means which names none."""


class Parser(PlainParser, LightningArgumentParser):
    """Lightning's parser with this project's messages, and the options of the default classes.

    Attributes:
        whole: Whether the help shows all of Lightning's options, in its words.
    """

    whole: ClassVar = False
    filled_in: ClassVar = {
        "data.strong": "model.strong",
        "data.weak": "model.weak",
        "data.reference": "model.weak",
    }

    def add_class_arguments(self, theclass: type, *args: Any, **kwargs: Any) -> Any:
        """As of jsonargparse; loggers write to the run's folder where nothing else is said."""
        skipped = set(kwargs.pop("skip", ()))
        placeable = issubclass(theclass, Logger) and "save_dir" in signature(theclass).parameters
        if placeable:
            skipped.add("save_dir")
        added = super().add_class_arguments(theclass, *args, skip=skipped, **kwargs)
        if placeable:
            self.add_argument("--save_dir", type=str | None, help="By default, the run's folder.")
        return added

    def known_keys(self) -> set[str]:
        """Those of the default classes too."""
        of_classes = (options.known_keys() for options in _default_options())
        return super().known_keys().union(*of_classes)

    def format_help(self, formatter: Any = None) -> str:
        """The help, with the options of the default classes spelt out, and Lightning's in short."""
        groups: Any = self._action_groups
        names = [{action.dest for action in group._group_actions} for group in groups]
        after = next((n for n, ones in enumerate(names, start=1) if "data" in ones), None)
        if after is None:
            return super().format_help(formatter)
        own = [group for options in _default_options() for group in options._action_groups]
        shown = [*groups[:after], *own, *groups[after:]]
        try:
            brought: Any = shown if self.whole else list(brief(shown, self.filled_in))
            self._action_groups = brought
            return super().format_help(formatter)
        finally:
            self._action_groups = groups


def _default_options() -> Iterator[PlainParser]:
    """Parsers of the options of the default classes."""
    for key, default in DEFAULTS.items():
        options = PlainParser(usage="-", add_help=False)
        options.add_class_arguments(default, key, fail_untyped=False, sub_configs=True)
        yield options
