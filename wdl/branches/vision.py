"""Pictures, as a vision-language branch takes them: its processor, and the tokens that they become.

In the texts of a conversation each picture stands as ``<image>``, in order. The chat template and
the processor of the model make tokens of these marks, as many as the picture's size asks for.
"""

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wdl.branches.sources import load_config, load_tokenizer, reading, reads_images
from wdl.branches.template import render
from wdl.errors import UserError
from wdl.system.files import write_json
from wdl.system.types import PreTrainedTokenizerBase

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

IMAGE = "<image>"
LOSSLESS = ("RGB", "L", "1", "P")
"""Modes that become RGB without a choice; of others somebody has to make one."""


@dataclass(frozen=True)
class ImageLimits:
    """Pixels that a picture has at least and at most for the model, by resizing.

    Args:
        min_pixels: Smaller pictures are enlarged; by default what the model's processor says.
        max_pixels: Larger pictures are reduced; by default what the model's processor says.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        low, high = 1 if self.min_pixels is None else self.min_pixels, self.max_pixels
        if low < 1 or (high is not None and high < low):
            raise UserError(
                f"images: min_pixels {self.min_pixels} and max_pixels {self.max_pixels} leave no "
                "size between them; let 0 < min_pixels <= max_pixels"
            )


class ImageError(ValueError):
    """What is wrong with a picture and how to mend it, without its place."""


def image_bytes(file: str | Path) -> bytes:
    """What a file holds.

    Raises:
        ImageError: It is not there, or cannot be read.
    """
    try:
        return Path(file).read_bytes()
    except FileNotFoundError:
        raise ImageError(f"there is no picture {file}; check the path") from None
    except OSError as error:
        raise ImageError(f"{file} cannot be read ({error.strerror}); check the path") from None


def open_image(file: str | Path, data: bytes | None = None) -> "Image":
    """A picture in RGB, upright, wholly decoded.

    Args:
        file: Where it is.
        data: What the file holds, if that is known already.

    Raises:
        ImageError: It is no picture, damaged, enormous, or loses something in RGB.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data or image_bytes(file)))
            if getattr(image, "n_frames", 1) > 1:
                raise ImageError(f"{file} has several frames; give one picture")
            image.load()
    except UnidentifiedImageError:
        raise ImageError(f"{file} is no picture that can be read; give a PNG or JPEG") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = Image.MAX_IMAGE_PIXELS
        raise ImageError(f"{file} has more than {limit} pixels; reduce it") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{file} is damaged ({error}); copy it again") from None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise ImageError(f"{file} is transparent in places; put it on a background")
    elif image.mode not in LOSSLESS:
        raise ImageError(f"{file} is {image.mode}, not RGB; convert it")
    return ImageOps.exif_transpose(image).convert("RGB")


class Vision:
    """The processor of a vision-language model, for pictures alone.

    Videos are left out, since their processors need torchvision. Pictures need it not, but come
    out a little different with it where they are resized; so :meth:`key` says which is used.

    Args:
        source: Model folder or hub name.
        limits: Other sizes than the processor's own.

    Raises:
        UserError: There is no processor, or it has no such limits.
    """

    def __init__(self, source: str, limits: ImageLimits | None = None) -> None:
        from transformers import AutoImageProcessor
        from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

        self.source = source
        self.config = config = load_config(source)
        if type(config) not in PROCESSOR_MAPPING:
            raise UserError(f"{source}: transformers has no processor for it; choose another model")
        kind = _of_images(PROCESSOR_MAPPING[type(config)])
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(source)
        with reading(source, "image processor"):
            self.images: Any = AutoImageProcessor.from_pretrained(source)
            settings, _ = kind.get_processor_dict(source)
        parts = {"image_processor": self.images, "tokenizer": self.tokenizer}
        if strange := {*kind.get_attributes()} - {*parts, "video_processor"}:
            raise UserError(f"{source}: its processor has a {min(strange)}; choose another model")
        self.limits = limits or ImageLimits()
        self._limit(self.limits)
        arguments = [parts.get(name) for name in kind.get_attributes()]
        self.processor = kind.from_args_and_dict(arguments, settings)
        self.image_token: int = self.processor.image_token_id

    def _limit(self, limits: ImageLimits) -> None:
        names = {"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels}
        asked = {name: pixels for name, pixels in names.items() if pixels is not None}
        if not asked:
            return
        # only such sizes as Qwen-VL's are areas
        if "max_pixels" not in self.images.valid_kwargs.__annotations__:
            raise UserError(
                f"{self.source}: its image processor knows no limits of pixels; leave min_pixels "
                "and max_pixels out"
            )
        self.images.size = {**dict(self.images.size), **asked}

    def tokens(self, prompt: str, images: Sequence["Image"]) -> list[int]:
        """Token ids of a rendered prompt with its pictures.

        Raises:
            ImageError: The prompt has room for another number of pictures, or the processor
                refuses one of them.
        """
        places = prompt.count(self.processor.image_token)
        if places != len(images):
            raise ImageError(
                f"the prompt has room for {places} pictures and there are {len(images)}; write "
                f"{IMAGE} once for each, and no {self.processor.image_token}"
            )
        try:
            made = self.processor(
                text=[prompt], images=list(images) or None, add_special_tokens=False
            )
        except ValueError as error:  # of extreme proportions, for example
            raise ImageError(f"the processor refuses a picture ({error}); change it") from None
        return list(made["input_ids"][0])

    def pixels(self, images: Sequence["Image"]) -> dict[str, "Tensor"]:
        """What the model reads of some pictures, one after the other."""
        return dict(self.images(images=list(images), return_tensors="pt"))

    def inputs(self, input_ids: "Tensor", images: Sequence["Image"]) -> dict[str, "Tensor"]:
        """What a batch [B, T] brings beside its tokens: pixels, and which tokens are pictures.

        Without ``mm_token_type_ids`` Qwen-VL gives pictures the positions of text, unsaid.
        """
        kinds = {"mm_token_type_ids": (input_ids == self.image_token).long()}
        known = "mm_token_type_ids" in self.processor.model_input_names
        return {**self.pixels(images), **(kinds if known else {})}

    def save(self, folder: Path) -> None:
        """Write what belongs to it beside model and tokenizer, with the limits of pictures."""
        from transformers.utils import cached_file

        self.images.save_pretrained(folder)
        # of videos and of the whole processor, of which nothing is read here
        for name in ("processor_config.json", "video_preprocessor_config.json"):
            found = cached_file(self.source, name, _raise_exceptions_for_missing_entries=False)
            if found is not None:
                settings = json.loads(Path(found).read_text())
                if "image_processor" in settings:
                    settings["image_processor"] = self.images.to_dict()
                write_json(folder / name, settings)

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes, which make it anew: its class is made at run time."""
        return Vision, (self.source, self.limits)

    @cached_property
    def blank(self) -> tuple[list[int], "Image"]:
        """A prompt with a picture that says nothing, and that picture."""
        from PIL import Image

        image = Image.new("RGB", (64, 64))
        question = [{"role": "user", "content": [{"type": "image"}]}]
        return self.tokens(render(self.tokenizer, question), [image]), image

    def key(self) -> dict[str, Any]:
        """What tokens and pixels of a picture depend on."""
        settings = json.loads(self.images.to_json_string())  # as it is read back, without tuples
        return {"processor": type(self.images).__name__, "settings": settings}


def find_vision(source: str, limits: ImageLimits) -> Vision | None:
    """The processor of a model that takes pictures; None for one that takes none.

    Raises:
        UserError: It takes none, so that they can have no limits.
    """
    if reads_images(load_config(source)):
        return Vision(source, limits)
    if limits != ImageLimits():
        raise UserError(f"data.images: {source} takes no pictures; leave it out")
    return None


def _of_images(kind: Any) -> Any:
    """A class of processors that does without one for videos."""

    def check(self: Any, name: str, argument: Any) -> Any:
        if name != "video_processor":
            return kind.check_argument_for_proper_class(self, name, argument)
        return None

    return type(kind.__name__, (kind,), {"check_argument_for_proper_class": check})


def with_parts(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A conversation with each ``<image>`` as a part of its own, as chat templates know it."""
    turns = []
    for message in messages:
        first, *others = message["content"].split(IMAGE)
        parts: list[dict[str, str]] = [{"type": "text", "text": first}] if first else []
        for text in others:
            parts.append({"type": "image"})
            if text:
                parts.append({"type": "text", "text": text})
        turns.append({**message, "content": parts if others else message["content"]})
    return turns
