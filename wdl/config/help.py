"""Help that reads well: what an option takes, what it is for, and its default, in few lines."""

import re
import types
from argparse import SUPPRESS, Action, _HelpAction
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import DefaultHelpFormatter
from jsonargparse._actions import ActionConfigFile, _ActionConfigLoad
from jsonargparse._link_arguments import ActionLink

_COLUMN = 34
"""Where the help of an option begins that fits into the option's line."""
_KINDS = {int: "INT", float: "NUMBER", str: "TEXT", bool: "{true,false}"}


class PlainHelp(DefaultHelpFormatter):
    """Help without types in Python's words, and without what nobody sets.

    A group of options can be given as a whole, in a file (``--data FILE``), and some are filled in
    from others: both are left out.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "max_help_position": 10})

    def add_arguments(self, actions: Any) -> None:
        """Those that are shown."""
        hidden = _ActionConfigLoad, ActionLink
        super().add_arguments([one for one in actions if not isinstance(one, hidden)])

    def _format_action(self, action: Action) -> str:
        """In one line, if option and help fit into one."""
        text = super()._format_action(action)
        option, _, told = text.rstrip("\n").partition("\n")
        line = f"{option:<{_COLUMN - 1}} {told.strip()}"
        fits = "\n" not in told and len(option) < _COLUMN and len(line) <= self._width
        return f"{line}\n" if told and fits else text

    def _get_help_string(self, action: Action) -> str:
        text = " ".join((action.help or "").replace("``", "").split())
        if isinstance(action, _HelpAction | ActionConfigFile) or action.dest.endswith(".help"):
            return text
        if action.required:
            return f"{text} (required)"
        told = action.default is not None and action.default != SUPPRESS
        return f"{text} (default: %(default)s)" if told and action.option_strings else text

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        hint = getattr(action, "_typehint", None) or action.type
        return super()._get_default_metavar_for_optional(action) if hint is None else _kind(hint)


def _kind(hint: Any) -> str:
    """What a user writes for a type."""
    parts = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) is Literal:
        return f"{{{','.join(map(str, parts))}}}"
    if get_origin(hint) in (Union, types.UnionType):
        return "|".join(dict.fromkeys(map(_kind, parts)))
    name = re.sub(r"^Input|Source$|Name$", "", getattr(hint, "__name__", str(hint)))
    return _KINDS.get(hint, "..." if parts else name.upper())
