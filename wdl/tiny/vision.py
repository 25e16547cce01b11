"""Tiny Qwen-VL models: the architectures that transformers has, with 1 M parameters and bytes.

Tokenizer and text are those of :mod:`wdl.tiny.model`; a picture of the embedded default is four
tokens.
"""

from pathlib import Path
from typing import Any, Literal

from transformers import (
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen3VLConfig,
)

from wdl.system.files import write_json
from wdl.tiny.model import END_OF_TEXT, END_OF_TURN, tiny_config, tiny_tokenizer

Kind = Literal["qwen2_5_vl", "qwen3_vl"]
TEXT = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "tie_word_embeddings",
]
VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 4,
    "in_channels": 3,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 128,
}
PATCH = {"qwen2_5_vl": 14, "qwen3_vl": 16}

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'image' %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- else %}
                {{- part.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def write_tiny_vision(folder: Path, kind: Kind = "qwen2_5_vl") -> None:
    """Write the folder of a tiny Qwen-VL, without weights; the same bytes each time."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    _config(kind, tokenizer).save_pretrained(folder)
    GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.convert_tokens_to_ids([END_OF_TURN, END_OF_TEXT]),
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)
    side = 2 * PATCH[kind]
    images = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "merge_size": 2,
        "patch_size": PATCH[kind],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": side**2, "longest_edge": (8 * side) ** 2},
        "temporal_patch_size": 2,
        "processor_class": {"qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen3_vl": "Qwen3VLProcessor"}[
            kind
        ],
    }
    names = {
        "qwen2_5_vl": ("Qwen2VLImageProcessor", "Qwen2VLVideoProcessor"),
        "qwen3_vl": ("Qwen2VLImageProcessorFast", "Qwen3VLVideoProcessor"),
    }
    image, video = names[kind]
    write_json(folder / "preprocessor_config.json", {**images, "image_processor_type": image})
    # nothing here reads videos, but what serves the model wants to know how it would
    write_json(folder / "video_preprocessor_config.json", {**images, "video_processor_type": video})


def _config(kind: Kind, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    small = tiny_config(tokenizer)  # type: ignore[arg-type]
    text = {name: getattr(small, name) for name in TEXT}
    text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text |= {"bos_token_id": None, "rms_norm_eps": 1e-6}
    names = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    image, video, start, end = (tokenizer.convert_tokens_to_ids(name) for name in names)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}
    shared: dict[str, Any] = {
        "image_token_id": image,
        "video_token_id": video,
        "vision_start_token_id": start,
        "vision_end_token_id": end,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    vision = {**VISION, "patch_size": PATCH[kind]}
    if kind == "qwen2_5_vl":
        text |= {"rope_parameters": {**rope, "mrope_section": [4, 6, 6]}}
        vision |= {"window_size": 112, "fullatt_block_indexes": [1], "tokens_per_second": 2}
        return Qwen2_5_VLConfig(
            text_config=text,
            vision_config=vision,
            architectures=["Qwen2_5_VLForConditionalGeneration"],
            **shared,
        )
    sections = {"mrope_section": [6, 5, 5], "mrope_interleaved": True}
    text |= {"rope_parameters": {**rope, **sections}, "head_dim": 32}
    vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        architectures=["Qwen3VLForConditionalGeneration"],
        **shared,
    )
