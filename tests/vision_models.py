"""Tiny vision-language models with random weights, and pictures to show them."""

from pathlib import Path
from typing import get_args

import torch
from PIL import Image, ImageDraw
from transformers import AutoConfig, AutoModelForImageTextToText

from wdl.generation.engine import Request
from wdl.tiny.vision import Kind, write_tiny_vision

KINDS: tuple[Kind, ...] = get_args(Kind)
SIZES = [(60, 90), (28, 28), (120, 40), (90, 90)]
TEXTS = ["<image> What?", "Plain text", "One <image>, two <image> and <image>", "<image><image>"]


def write_vision_model(folder: Path, kind: Kind = "qwen2_5_vl") -> Path:
    """A model of transformers' ``kind``; one token in thirteen ends its answers."""
    write_tiny_vision(folder, kind)
    config = AutoConfig.from_pretrained(folder)
    # or what is seen would hardly show in what is written, and tied heads would only repeat it
    for part in (config.text_config, config.vision_config):
        part.initializer_range = 0.1
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = list(range(0, 288, 13))
    model.save_pretrained(folder)
    return folder


def draw(file: Path, width: int, height: int, colour: str) -> str:
    """A picture of a disc and a stripe; its absolute path."""
    image = Image.new("RGB", (width, height), colour)
    ImageDraw.Draw(image).ellipse((2, 2, width // 2, height // 2), fill="white")
    ImageDraw.Draw(image).line((0, height - 3, width, height // 2), fill="black", width=3)
    image.save(file)
    return str(file.absolute())


def requests_with_images(folder: Path) -> list[Request]:
    """Twelve, with none to three pictures each."""
    made = []
    for n in range(12):
        text = TEXTS[n % 4] + f" {n}" * n
        images = tuple(
            draw(folder / f"{n}-{m}.png", *SIZES[(n + m) % 4], ("red", "blue", "green")[m])
            for m in range(text.count("<image>"))
        )
        made.append(Request(f"p{n}", 0, [{"role": "user", "content": text}], images))
    return made
