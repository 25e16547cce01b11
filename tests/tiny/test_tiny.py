"""The embedded default: its tokenizer loses nothing, and its folder loads like any other model."""

import random
import unicodedata
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from wdl.tiny.model import write_tiny_architecture

# Qwen3's 26 added tokens, typed in from its published tokenizer_config.json in the order of ids.
QWEN3_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
]
NASTY = [
    "",
    " ",
    "  two spaces before, two after  ",
    "\ttab\n\n\r\nnewlines\r\x0b\x0c\x1c\x85",
    "\x00zero\x00bytes\x00",
    "e\u0301 is not \u00e9, \u1e9b\u0323 is not \u1e69",
    "Z\u0351\u036e\u0316a\u0321l\u0322g\u0323o\u0324",
    "👩\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 🇨🇭 👍🏽",
    "\ufeffmark \u2028line \u2029paragraph \u00a0\u202f\u3000spaces",
    "العربية עברית हिन्दी ไทย 한국어 \uff21\uff22 \ufb01 \u338f \u212b",
    "\U0010ffff\ufffd\ue000",
    "don't , stop . they 're n't !",
    "Ġ Ċ ĉ Ā ÿ ▁ ##",
    "<|im_end|>\n<|im_start|> <think> </think><|endoftext|>",
    "<|im_end|", "<think", "< think >", "<<think>>",
    r"\boxed{\frac{1}{2}}",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_architecture(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer


def random_text(rng: random.Random) -> str:
    """Any code points that UTF-8 can hold, so all but the surrogates."""
    points = [rng.randrange(0x110000) for _ in range(rng.randrange(40))]
    return "".join(chr(point) for point in points if unicodedata.category(chr(point)) != "Cs")


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_round_trips(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_random_text_round_trips(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(0)
    texts = [random_text(rng) for _ in range(2000)] + [chr(point) for point in range(0x300)]
    assert tokenizer.batch_decode(tokenizer(texts)["input_ids"]) == texts


@pytest.mark.parametrize("text", [NASTY[2], NASTY[7], NASTY[9], "x" * 5000])
def test_each_byte_is_one_token(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer.encode(text)
    assert len(ids) == len(text.encode())
    assert max(ids) < 256


def test_bytes_have_the_ids_of_qwen3(tokenizer: PreTrainedTokenizerFast) -> None:
    # From Qwen3's vocab.json: "!" opens it, newline is 198, space is 220.
    assert tokenizer.encode("!~\n ") == [0, 93, 198, 220]


def test_the_tokens_that_qwen3_adds_are_there_by_name(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = [tokenizer.convert_tokens_to_ids(name) for name in QWEN3_TOKENS]
    assert ids == list(range(256, 282))
    assert [tokenizer.encode(name) for name in QWEN3_TOKENS] == [[i] for i in ids]
    assert len(tokenizer) == 282


def test_padding_is_not_the_end_of_a_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.bos_token is None


def test_skipping_special_tokens_keeps_the_markup(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "<|im_start|><think>3*4=12</think> <answer>12</answer><|im_end|><|endoftext|>"
    plain = tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True)
    assert plain == "<think>3*4=12</think> <answer>12</answer>"


def test_chat_template_is_chatml(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " 3*4? "},
        {"role": "assistant", "content": "<think>easy</think> 12"},
    ]
    turns = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n 3*4? <|im_end|>\n",
        "<|im_start|>assistant\n",
        "<think>easy</think> 12<|im_end|>\n",
    )
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "".join(turns)
    prompt = tokenizer.apply_chat_template(messages[:2], add_generation_prompt=True, tokenize=False)
    assert prompt == "".join(turns[:2])
    tokens = tokenizer.apply_chat_template(
        messages[:2], add_generation_prompt=True, return_dict=False
    )
    assert tokens == tokenizer.encode(prompt)


def test_configuration_is_a_small_qwen3(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert config.model_type == "qwen3"
    assert config.architectures == ["Qwen3ForCausalLM"]
    assert config.max_position_embeddings >= 2048
    assert config.tie_word_embeddings
    assert config.vocab_size == 288  # 282 tokens, up to a multiple of 32


def test_model_loads_and_saves_like_any_other(folder: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    assert 700_000 < model.num_parameters() < 900_000
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = torch.arange(288)[None]
    with torch.no_grad():
        assert torch.equal(model.eval()(tokens).logits, again(tokens).logits)


def test_generation_stops_at_both_ends(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    generation = GenerationConfig.from_pretrained(folder)
    stops = [tokenizer.convert_tokens_to_ids(name) for name in ("<|im_end|>", "<|endoftext|>")]
    assert generation.eos_token_id == stops
    assert generation.pad_token_id == stops[1]
    assert not generation.do_sample


def test_folder_has_no_weights_and_the_same_bytes_each_time(folder: Path, tmp_path: Path) -> None:
    write_tiny_architecture(tmp_path)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert files.keys() == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
