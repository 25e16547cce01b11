"""The embedded default: a tiny Qwen3 and a byte-level tokenizer, made from nothing but code.

`write_tiny_architecture(folder)` writes what a model hub would otherwise have to deliver: the
configuration, tokenizer, chat template and generation configuration of a Qwen3 with 0.8 M
parameters. There are no weights in the folder; training from scratch makes them. The tokenizer
knows the 256 bytes and the 26 tokens that Qwen3 adds to its vocabulary, so that everything which
looks up tokens by name behaves as it does with the real models.
"""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config

from wdl.errors import UserError
from wdl.tiny.arithmetic import write_arithmetic

END_OF_TEXT = "<|endoftext|>"
END_OF_TURN = "<|im_end|>"
# In the order of their ids in Qwen3. Decoding with skip_special_tokens drops the control tokens
# and keeps the markup, which belongs to the text of an answer.
CONTROL_TOKENS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|>"
)
MARKUP_TOKENS = (
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> "
    "<|repo_name|> <|file_sep|> <tool_response> </tool_response> <think> </think>"
)
CONTEXT_LENGTH = 4096
VOCAB_MULTIPLE = 32

# ChatML. Qwen3's own template also strips <think> blocks from the history and renders tools; the
# tiny model meets neither.
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per UTF-8 byte, and Qwen3's added tokens.

    Without merges and without a normalizer, decoding gives back every string exactly. The bytes
    have the ids 0-255 that they have in Qwen3. It does not pad with the token that ends turns:
    masking the padding would also hide the end of each answer from the loss.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(
        [AddedToken(name, normalized=False, special=True) for name in CONTROL_TOKENS.split()]
        + [AddedToken(name, normalized=False, special=False) for name in MARKUP_TOKENS.split()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        extra_special_tokens=CONTROL_TOKENS.split(),
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_LENGTH,
        chat_template=CHAT_TEMPLATE,
    )


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """The configuration of a Qwen3 with 0.8 M parameters for a tokenizer.

    Like Qwen3-4B it ties the embeddings to the head, shares each key-value head between query
    heads, and has more rows in the embedding than the tokenizer has tokens.
    """
    return Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        vocab_size=-(-len(tokenizer) // VOCAB_MULTIPLE) * VOCAB_MULTIPLE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def write_tiny_architecture(folder: Path) -> None:
    """Write the model folder of the embedded default, without weights.

    Writing it again gives the same bytes.
    """
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    tiny_config(tokenizer).save_pretrained(folder)
    GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.convert_tokens_to_ids([END_OF_TURN, END_OF_TEXT]),
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)


def write_tiny(folder: str, seed: int = 42) -> None:
    """Write the embedded default's beginnings: what its recipe trains, and on what.

    Args:
        folder: Receives ``model/`` (no weights), ``base.jsonl``, ``train.jsonl`` and
            ``heldout.jsonl``; created if it does not exist.
        seed: Of the arithmetic problems.

    Raises:
        UserError: Something else is there already.
    """
    model = Path(folder) / "model"
    if any(model.glob("*.safetensors")):
        raise UserError(f"{model}: holds the weights of a model already; choose a new folder")
    write_arithmetic(Path(folder), seed=seed)
    write_tiny_architecture(model)
