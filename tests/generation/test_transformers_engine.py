"""Our decoding against that of transformers, for several architectures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from wdl.generation import transformers_engine as engine_transformers
from wdl.generation.engine import Generation, Request, Sampling
from wdl.generation.local_engine import Prompt
from wdl.generation.transformers_engine import TransformersEngine, choose_tokens, plan_batches

SIZES: dict[str, Any] = {
    "vocab_size": 288,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
CONFIGS = {
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "qwen2": Qwen2Config(**SIZES),
    "llama": LlamaConfig(**SIZES),
    "gemma3": Gemma3TextConfig(
        **SIZES, head_dim=8, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    ),
}
REQUESTS = [
    Request(f"p{n}", 0, [{"role": "user", "content": f"{7 * n}" * (1 + 5 * n % 17)}])
    for n in range(20)
]
PROMPTS = [Prompt(request, [0] * (3 + 5 * n % 17)) for n, request in enumerate(REQUESTS)]
GREEDY = Sampling(24, 0.0, 1.0, 42)


def save(config: PreTrainedConfig, architecture: Path, folder: Path) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    # random models hardly ever write one certain token, so one in thirteen ends an answer here
    model.generation_config.eos_token_id = list(range(0, 288, 13))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(architecture).save_pretrained(folder)
    return folder


@pytest.fixture(params=CONFIGS)
def folder(request: pytest.FixtureRequest, architecture: Path, tmp_path: Path) -> Path:
    return save(CONFIGS[request.param], architecture, tmp_path / "model")


@pytest.fixture
def engine(architecture: Path, tmp_path: Path) -> TransformersEngine:
    return TransformersEngine(str(save(CONFIGS["qwen3"], architecture, tmp_path / "model")))


def answers(engine: TransformersEngine, sampling: Sampling = GREEDY, **options) -> list[Generation]:
    found = {g.key: g for part in engine.generate(REQUESTS, sampling, **options) for g in part}
    return [found[request.key] for request in REQUESTS if request.key in found]


def test_greedy_answers_are_those_of_transformers(folder: Path) -> None:
    """Batched, padded and shrinking against one at a time."""
    engine = TransformersEngine(str(folder))
    ours = answers(engine)
    for prompt, generation in zip(engine.prompts(REQUESTS, GREEDY), ours, strict=True):
        tokens = torch.tensor([prompt.tokens])
        expected = engine.model.generate(  # type: ignore[operator]
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=GREEDY.max_new_tokens,
            do_sample=False,
            eos_token_id=list(engine.stop_tokens),
            pad_token_id=0,
        )[0, tokens.shape[1] :].tolist()
        stopped = expected[-1] in engine.stop_tokens
        kept = expected[:-1] if stopped else expected
        assert generation.completion == engine.tokenizer.decode(kept, skip_special_tokens=True)
        assert generation.new_tokens == len(expected)
        assert generation.finish_reason == ("stop" if stopped else "length")
    assert {generation.finish_reason for generation in ours} == {"stop", "length"}


def test_a_resumed_run_gives_the_same_answers(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_transformers, "MAX_ROWS", 8)
    sampling = Sampling(24, 1.0, 0.9, 42)
    undisturbed = answers(engine, sampling)
    done = {generation.key for generation in undisturbed[::3]}
    rest = answers(engine, sampling, done=done)
    assert rest == [generation for generation in undisturbed if generation.key not in done]


def test_answers_come_as_they_end(engine: TransformersEngine) -> None:
    parts = list(engine.generate(REQUESTS, GREEDY))
    assert len(parts) > 2
    assert parts[0][0].new_tokens < GREEDY.max_new_tokens


def test_the_seed_decides_the_samples(engine: TransformersEngine) -> None:
    def sample(seed: int) -> list[str]:
        return [g.completion for g in answers(engine, Sampling(24, 1.0, 1.0, seed))]

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_samples_follow_the_nucleus() -> None:
    """Probabilities .5, .3, .15, .05: a nucleus of .7 holds the first two, in the ratio 5 : 3."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(20_000, -1)
    draw = torch.Generator().manual_seed(0)
    tokens = choose_tokens(logits, Sampling(1, 1.0, 0.7, 0), draw)
    shares = torch.bincount(tokens, minlength=4) / len(tokens)
    torch.testing.assert_close(shares, torch.tensor([0.625, 0.375, 0.0, 0.0]), atol=0.015, rtol=0)


def test_temperature_sharpens() -> None:
    """At temperature 1/2 the probabilities are squared: .8 and .2 become 16 : 1."""
    logits = torch.tensor([0.8, 0.2]).log().expand(20_000, -1)
    draw = torch.Generator().manual_seed(0)
    tokens = choose_tokens(logits, Sampling(1, 0.5, 1.0, 0), draw)
    assert (tokens == 0).float().mean().item() == pytest.approx(16 / 17, abs=0.01)


def test_batches_hold_all_requests_within_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_transformers, "MAX_ROWS", 6)
    monkeypatch.setattr(engine_transformers, "MAX_POSITIONS", 120)
    batches = list(plan_batches(PROMPTS, new_tokens=8))
    assert sorted(p.request.id for batch in batches for p in batch) == sorted(
        request.id for request in REQUESTS
    )
    for batch in batches:
        assert len(batch) <= 6
        assert len(batch) * (max(len(p.tokens) for p in batch) + 8) <= 120


def test_a_request_beyond_the_limit_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_transformers, "MAX_POSITIONS", 1)
    assert [len(batch) for batch in plan_batches(PROMPTS, new_tokens=8)] == [1] * len(PROMPTS)
