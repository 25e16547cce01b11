"""Types of the paths in a configuration.

A relative path in a YAML file is meant from that file's folder, one on the command line from the
current folder. jsonargparse reads a YAML from within its folder, so making a path absolute as it
is parsed does both, and the saved configuration works from anywhere.
"""

import os
import re

from jsonargparse.typing import register_type

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


class InputPath(str):
    """A file or folder to read."""


class ModelSource(str):
    """A Hugging Face model folder, or a name on the model hub (``organisation/name``)."""


def _input_path(value: str) -> InputPath:
    return InputPath(os.path.abspath(os.path.expanduser(value)))


def _model_source(value: str) -> ModelSource:
    if not os.path.exists(value) and _HUB_NAME.fullmatch(value):
        return ModelSource(value)
    return ModelSource(_input_path(value))


register_type(InputPath, serializer=str, deserializer=_input_path)
register_type(ModelSource, serializer=str, deserializer=_model_source)
