"""Every causal language model of transformers, tiny and random: what wdl takes, whether rightly.

    python benchmarks/architectures.py > docs/architectures.md

Each architecture is written to a folder and loaded as a branch, to read padded samples and to read
packs, in float32 and in bfloat16. Whatever the answer, the loss of a batch and its gradient are
then computed as training does, and compared with those of the model's own logits of each sample
alone, with weights three times as large, so that caps and sinks count. WRONG is a branch that was
taken and differs there. What is said of each goes to stderr.
"""

import os

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed prints that it had to guess

import argparse
import copy
import logging
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from wdl.branches.loading import load_branch
from wdl.branches.reading import hidden_states, output_head
from wdl.branches.sources import check_source
from wdl.constants import IGNORE_INDEX
from wdl.data.batches import Batch, collate, collate_pack
from wdl.data.encoding import Encoded
from wdl.errors import UserError
from wdl.losses.mixed_loss import mixed_linear_cross_entropy

DESCRIPTION = """Every class behind `AutoModelForCausalLM` with a tiny random model, loaded as
`model.strong` is, in float32 and in bfloat16, once to read padded samples and once to read packs
(`data.max_tokens`). Independently of that, loss and gradient as training computes them are compared
with those of the model's own logits of each sample alone.

- **ok**: taken, and equal. **refused**: one line at load, and training would differ or fail.
- **refused needlessly**: refused, although training would have been right.
- **WRONG**: taken, and different, without an error.
- **in float32**: refused in bfloat16, where the model's own code fails.
"""

WINDOW, LENGTHS = 8, (9, 30, 17, 2)
SMALL: dict[int, str] = {
    256: "vocab_size vocab_size_per_layer_input max_position_embeddings n_positions max_seq_len "
    "max_sequence_length num_hash",
    64: "hidden_size d_model n_embd n_embed emb_dim embedding_size dim linear_d_inner",
    96: "intermediate_size ffn_hidden_size ffn_dim decoder_ffn_dim encoder_ffn_dim d_ff mlp_dim "
    "dim_ff",
    32: "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size "
    "expert_ffn_hidden_size q_lora_rank hidden_size_per_layer_input",
    16: "head_dim attention_head_dim kv_lora_rank v_head_dim",
    8: "qk_rope_head_dim qk_nope_head_dim rotary_dim mamba_d_state state_size ssm_state_size",
    4: "num_hidden_layers n_layer n_layers num_layers num_attention_heads n_head n_heads num_heads "
    "decoder_attention_heads encoder_attention_heads num_experts n_routed_experts "
    "num_local_experts moe_num_experts mamba_n_heads",
    2: "num_key_value_heads decoder_layers encoder_layers num_experts_per_tok "
    "num_experts_per_token moe_k top_k_experts moe_topk",
    1: "n_group topk_group first_k_dense_replace n_shared_experts",
    WINDOW: "sliding_window",
}
"""Sizes by the names that configurations give them."""
ALTERNATING = ["full_attention", "sliding_attention"] * 2
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
OTHERWISE: dict[str, dict[str, Any]] = {
    "codegen": {"rotary_dim": 8},
    "gptj": {"rotary_dim": 8},
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {
        "layer_types": ALTERNATING,
        "rope_parameters": {kind: ROPE for kind in ALTERNATING},
    },
    "gemma3n_text": {"num_kv_shared_layers": 0, "layer_types": ALTERNATING},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": WINDOW},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "xlstm": {"embedding_dim": 64, "num_blocks": 4},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 8, "attn_layer_period": 3, "attn_layer_offset": 2},
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "hybrid_layer_ids": [1, 3],
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "kv_channels": 16,
        "mamba_headdim": 16,
    },
    "zaya": {"num_experts_per_tok": 1},
}
"""What single architectures need instead."""


def small_config(kind: str) -> PretrainedConfig:
    """The configuration of an architecture, with tiny sizes."""
    make = CONFIG_MAPPING[kind]
    known = make().to_dict()
    sizes: dict[str, Any] = {
        name: size for size, names in SMALL.items() for name in names.split() if name in known
    }
    sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if "is_decoder" in known:
        sizes["is_decoder"] = True
    if "qk_rope_head_dim" in known:  # latent attention: one key per head, and its own lengths
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
        sizes.pop("head_dim", None)
    sizes |= OTHERWISE.get(kind, {})
    return make(**sizes)


def small_model(config: PretrainedConfig) -> PreTrainedModel:
    """A model with random weights."""
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(copy.deepcopy(config)).parameters()
    if sum(weight.numel() for weight in shapes) > 2e7:
        raise ValueError("is not tiny yet")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval()


def random_samples() -> list[Encoded]:
    """Samples of several lengths, half of each a prompt."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "input_ids": torch.randint(3, 250, (n,), generator=generator).tolist(),
            "prompt_length": n // 2,
        }
        for n in LENGTHS
    ]


def verdict(folder: str, packed: bool, dtype: torch.dtype) -> str:
    """Why a model is refused as a branch, or nothing."""
    try:
        check_source(folder, "model.strong")
        load_branch(folder, dtype, packed=packed)
    except UserError as error:
        return error.faults[0].replace(folder, "it")
    return ""


def with_gradient(model: PreTrainedModel, loss: Callable[[], Tensor]) -> Tensor:
    """A loss and its gradient at the embeddings, in one vector."""
    model.zero_grad()
    value = loss()
    value.backward()
    embeddings = next(model.get_input_embeddings().parameters())
    assert embeddings.grad is not None
    return torch.cat([value.detach()[None], embeddings.grad.flatten()])


def own_loss(model: PreTrainedModel) -> Tensor:
    """Sum over the completions, by the model's own logits of each sample alone."""
    losses = []
    for sample in random_samples():
        ids, start = torch.tensor(sample["input_ids"]), sample["prompt_length"]
        logits = model(input_ids=ids[None]).logits[0, start - 1 : -1]
        losses.append(F.cross_entropy(logits.float(), ids[start:], reduction="sum"))
    return torch.stack(losses).sum()


def trained_loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The same as training computes it."""
    states = hidden_states(
        model, batch["input_ids"], batch["attention_mask"], batch.get("segments")
    )
    labels = batch["labels"].flatten()
    assert (labels != IGNORE_INDEX).any()
    return mixed_linear_cross_entropy(
        states.flatten(0, 1), output_head(model).weight, None, None, labels, 1.0, denominator=1
    )


def is_right(config: PretrainedConfig, packed: bool) -> bool:
    """Whether training has the loss and gradient of the model's own logits."""
    samples = random_samples()
    batch = (collate_pack if packed else collate)(samples, range(len(samples)), 0, 1)
    model = small_model(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3 if weight.dim() > 1 else 1)
            weight.add_(torch.randn(weight.shape) / 20)  # biases and the like begin as 0
        output_head(model).weight.mul_(10)  # or no cap would show
    truth = with_gradient(model, lambda: own_loss(model))
    try:
        trained_loss(model.train(), batch)  # with dropout
        ours = with_gradient(model.eval(), lambda: trained_loss(model, batch))
    except Exception:  # whatever a model's own code raises
        return False
    error, size = (ours - truth).abs(), truth.abs()
    return bool(error[0] <= 1e-4 * size[0] and error[1:].norm() <= 1e-3 * size[1:].norm())


def judge(config: PretrainedConfig, folder: str, packed: bool) -> tuple[str, str]:
    """``ok``, ``refused`` or ``WRONG``, and what was said."""
    said = [verdict(folder, packed, dtype) for dtype in (torch.float32, torch.bfloat16)]
    right = is_right(config, packed)
    if all(said):
        return "refused" + (" needlessly" if right else ""), said[0]
    if any(said):
        dtype = "bfloat16" if said[0] else "float32"
        return ("ok" if right else "WRONG") + f" in {dtype}", said[0] or said[1]
    return ("ok" if right else "WRONG"), ""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="Architectures by their model_type.")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    rows: list[tuple[str, str, str, str]] = []
    unbuilt: dict[str, Exception] = {}
    for kind, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        if options.only and kind not in options.only:
            continue
        try:
            config = small_config(kind)
            model = small_model(config)
            with_gradient(model, partial(own_loss, model))
        except Exception as error:
            unbuilt[kind] = error
            continue
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            (padded, first), (packed, second) = (judge(config, folder, p) for p in (False, True))
        rows.append((kind, name, padded, packed))
        print(kind, "|", padded, "|", first, "|", packed, "|", second, file=sys.stderr, flush=True)
    print(f"# Architectures\n\nOf transformers {transformers.__version__}, as written by\n")
    print("    python benchmarks/architectures.py > docs/architectures.md\n")
    print(DESCRIPTION)
    for place, how in ((2, "Padded"), (3, "Packed")):
        counts = Counter(row[place] for row in rows)
        said = ", ".join(f"{n} {what}" for what, n in counts.most_common())
        print(f"- {how}: {said}, {sum('WRONG' in row[place] for row in rows)} WRONG.")
    print(f"- Not built from a tiny configuration, so not tried: {', '.join(unbuilt)}.")
    print("\n| `model_type` | class | padded | packed |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
