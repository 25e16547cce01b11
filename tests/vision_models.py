"""Tiny vision-language models with random weights and the embedded tokenizer, and pictures."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, AutoTokenizer

from wdl.generation.engine import Request

TEMPLATE = """{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}
{%- if part.type in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>
{%- else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
TEXT: dict[str, Any] = {
    "vocab_size": 288,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": None,
    "eos_token_id": 258,
    "initializer_range": 0.1,  # large, so that what is seen shows in what is written
}
VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 4,
    "initializer_range": 0.1,
}
KINDS: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "text_config": {
            **TEXT,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [4, 6, 6],
            },
        },
        "vision_config": {
            **VISION,
            "patch_size": 14,
            "window_size": 112,
            "out_hidden_size": 128,
            "fullatt_block_indexes": [1],
        },
    },
    "qwen3_vl": {
        "text_config": {
            **TEXT,
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
        },
        "vision_config": {
            **VISION,
            "patch_size": 16,
            "out_hidden_size": 128,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
    },
}
PROCESSORS = {"qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen3_vl": "Qwen3VLProcessor"}
SIZES = [(60, 90), (28, 28), (120, 40), (90, 90)]
TEXTS = ["<image> What?", "Plain text", "One <image>, two <image> and <image>", "<image><image>"]
MARKS = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}


def write_vision_model(folder: Path, tokenizer_source: Path, kind: str = "qwen2_5_vl") -> Path:
    """A model of transformers' ``kind``; one token in thirteen ends its answers."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_source)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in MARKS.items()}
    settings: dict[str, Any] = {**KINDS[kind], **ids, "tie_word_embeddings": False}
    config = CONFIG_MAPPING[kind](**settings)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = list(range(0, 288, 13))
    model.save_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    patch = KINDS[kind]["vision_config"]["patch_size"]
    processor = {
        "patch_size": patch,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"shortest_edge": (2 * patch) ** 2, "longest_edge": (8 * patch) ** 2},
        "processor_class": PROCESSORS[kind],
    }
    images = {**processor, "image_processor_type": "Qwen2VLImageProcessor"}
    videos = {**processor, "video_processor_type": "Qwen2VLVideoProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    (folder / "video_preprocessor_config.json").write_text(json.dumps(videos))
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
