"""The mixed loss against float64 autograd of the formula written out, and against its theory."""

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICE
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from wdl.constants import IGNORE_INDEX
from wdl.losses import matmul
from wdl.losses.logit_statistics import DynamicsLevel
from wdl.losses.mixed_loss import mixed_linear_cross_entropy

VOCABULARY = 101
TEN_TOKENS = VOCABULARY * 4 * 10
"""Memory of a chunk of ten tokens in float32, so that a batch has several."""


class Pair(NamedTuple):
    """Arguments of the loss, in its order."""

    hidden_strong: Tensor
    head_strong: Tensor
    hidden_weak: Tensor
    head_weak: Tensor
    labels: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self[:4]

    def to(self, dtype: torch.dtype) -> "Pair":
        """A copy with leaves of another dtype."""
        tensors = (tensor.detach().to(dtype).requires_grad_() for tensor in self.tensors)
        return Pair._make([*tensors, self.labels])


def make_pair(
    dtype: torch.dtype = torch.float64, tokens: int = 37, confidence: float = 0.0
) -> Pair:
    """Random branches of different hidden sizes, which favour their targets by `confidence`."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, VOCABULARY, (tokens,), generator=generator)
    tensors = []
    for size in (16, 12):
        hidden = torch.randn(tokens, size, generator=generator)
        head = torch.randn(VOCABULARY, size, generator=generator)
        tensors += [hidden + confidence * F.normalize(head[labels], dim=1), head]
    labels[torch.rand(tokens, generator=generator) < 0.3] = IGNORE_INDEX
    return Pair._make([*tensors, labels]).to(dtype)


def written_out(pair: Pair, lam: float) -> Tensor:
    """The formula with all logits, made float32 if they are narrower."""
    hs, ws, hw, ww, labels = pair
    z = lam * (hs @ ws.T) + (1 - lam) * (hw @ ww.T)
    return F.cross_entropy(z if z.dtype == torch.float64 else z.float(), labels)


def gradients(loss: Tensor, pair: Pair) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, pair.tensors)


def distance(measured: Tensor, exact: Tensor) -> float:
    """Relative error in the Euclidean norm; absolute where the truth is 0."""
    norm = exact.double().norm().item()
    return (measured.double() - exact.double()).norm().item() / (norm or 1)


def set_products(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply 16-bit operands in a way that this CPU might not choose, in several tiles."""
    wide = way == "widened"
    monkeypatch.setattr(
        matmul, "product_dtype", lambda t: matmul.sum_dtype(t.dtype) if wide else t.dtype
    )
    monkeypatch.setattr(matmul, "TILE_BYTES", 4 * 16 * 30)
    monkeypatch.setattr(matmul, "PART_BYTES", 4 * 16 * 40)


@pytest.mark.parametrize("dynamics", ["off", "cheap", "full"])
@pytest.mark.parametrize("lam", [0.0, 0.42, 1.0])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.float16, 1e-3)]
)
def test_equals_autograd_of_the_formula(
    dtype: torch.dtype, tolerance: float, lam: float, dynamics: DynamicsLevel
) -> None:
    pair = make_pair(dtype)
    result = mixed_linear_cross_entropy(*pair, lam, dynamics=dynamics, chunk_bytes=TEN_TOKENS)
    loss = result if isinstance(result, Tensor) else result.loss
    exact_loss = written_out(exact := pair.to(torch.float64), lam)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert distance(loss, exact_loss) < tolerance
    for gradient, tensor, expected in zip(
        gradients(loss, pair), pair.tensors, gradients(exact_loss, exact), strict=True
    ):
        assert gradient.dtype == tensor.dtype
        assert distance(gradient, expected) < tolerance


@pytest.mark.parametrize(
    ("way", "confidence", "share"),
    [
        ("widened", 0, 1.02),
        ("widened", 2.2, 0.5),
        # with 16-bit results, each chunk's part of a head's gradient is rounded as well
        ("16-bit", 0, 1.5),
        ("16-bit", 2.2, 0.75),
    ],
)
def test_bfloat16_is_no_worse_than_materialised_bfloat16(
    way: str, confidence: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_products(way, monkeypatch)
    pair = make_pair(torch.bfloat16, tokens=301, confidence=confidence)
    exact_loss = written_out(exact := pair.to(torch.float64), 0.5)
    expected = gradients(exact_loss, exact)
    loss = mixed_linear_cross_entropy(*pair, 0.5, chunk_bytes=TEN_TOKENS * 5)
    usual = written_out(pair, 0.5)
    assert distance(loss, exact_loss) <= distance(usual, exact_loss) + 1e-4
    for ours, theirs, truth in zip(
        gradients(3 * loss, pair), gradients(3 * usual, pair), expected, strict=True
    ):
        assert distance(ours, 3 * truth) <= share * distance(theirs, 3 * truth)


def test_confident_tokens_keep_loss_and_gradient() -> None:
    # 1 - P[y] = 8e-10 is lost next to P[y] in float32, but not where it stands alone
    logits = torch.tensor([[21.0, 0.0, -3.0]], requires_grad=True)
    exact = logits.detach().double().requires_grad_()
    labels = torch.tensor([0])
    loss = mixed_linear_cross_entropy(logits, torch.eye(3), None, None, labels, 1)
    written = torch.log1p(torch.exp(exact[0, 1:] - exact[0, 0]).sum())
    loss.backward()
    written.backward()
    assert exact.grad is not None
    torch.testing.assert_close(loss, written.float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(logits.grad, exact.grad.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("tokens", [0, 1, 9, 10, 11])
def test_chunks_do_not_show(tokens: int) -> None:
    pair = make_pair(tokens=tokens)
    pair = pair._replace(labels=pair.labels.clamp_min(0))
    whole = mixed_linear_cross_entropy(*pair, 0.42)
    parts = mixed_linear_cross_entropy(*pair, 0.42, chunk_bytes=TEN_TOKENS)
    torch.testing.assert_close(whole, parts)
    torch.testing.assert_close(gradients(whole, pair), gradients(parts, pair))


def test_lambda_one_is_cross_entropy_of_strong() -> None:
    pair = make_pair()
    loss = mixed_linear_cross_entropy(*pair, 1)
    alone = mixed_linear_cross_entropy(*pair[:2], None, None, pair.labels, 1)
    exact = F.cross_entropy(pair.hidden_strong @ pair.head_strong.T, pair.labels)
    torch.testing.assert_close(loss, exact)
    torch.testing.assert_close(alone, exact)


def test_lambda_zero_sends_no_gradient_to_strong() -> None:
    pair = make_pair()
    strong, head, *_ = gradients(mixed_linear_cross_entropy(*pair, 0), pair)
    assert not strong.any()
    assert not head.any()


def test_without_weak_the_logits_are_scaled() -> None:
    pair = make_pair()
    loss = mixed_linear_cross_entropy(*pair[:2], None, None, pair.labels, 0.3)
    torch.testing.assert_close(loss, F.cross_entropy(0.3 * pair[0] @ pair[1].T, pair.labels))


@pytest.mark.parametrize("dynamics", ["off", "cheap", "full"])
@pytest.mark.parametrize("denominator", [None, 0, 7])
def test_no_completion_token_gives_zero(denominator: int | None, dynamics: DynamicsLevel) -> None:
    pair = make_pair()
    pair = pair._replace(labels=torch.full_like(pair.labels, IGNORE_INDEX))
    result = mixed_linear_cross_entropy(*pair, 0.5, denominator=denominator, dynamics=dynamics)
    loss = result if isinstance(result, Tensor) else result.loss
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients(loss, pair))


@pytest.mark.parametrize("frozen", [(2, 3), (1, 3), (0, 1)], ids=["weak", "heads", "strong"])
def test_what_is_frozen_gets_no_gradient_buffer(frozen: tuple[int, int]) -> None:
    pair = make_pair()
    for i in frozen:
        pair[i].requires_grad_(False)
    loss: Any = mixed_linear_cross_entropy(*pair, 0.5)
    assert [i for i in range(4) if loss.grad_fn.gradients[i] is None] == list(frozen)
    loss.backward()
    assert [i for i in range(4) if pair[i].grad is None] == list(frozen)


def test_validation_computes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "Gradient", None)  # a call would fail
    pair = make_pair()
    with torch.no_grad():
        loss = mixed_linear_cross_entropy(*pair, 0.5)
    torch.testing.assert_close(loss, written_out(pair, 0.5))
    assert not loss.requires_grad


def test_heads_are_read_in_the_forward_pass_only() -> None:
    pair = make_pair()
    expected = gradients(written_out(pair, 0.5), pair)
    loss = mixed_linear_cross_entropy(*pair, 0.5)
    for tensor in pair.tensors:  # as ZeRO-3 does when it takes parameters apart again
        tensor.data.fill_(torch.nan)
    torch.testing.assert_close(gradients(loss, pair), expected)


def test_micro_batches_with_one_denominator_add_up() -> None:
    pair = make_pair()
    counted = int((pair.labels != IGNORE_INDEX).sum())
    whole = mixed_linear_cross_entropy(*pair, 0.42)
    whole.backward()
    expected = [tensor.grad for tensor in pair.tensors]
    pair, total = pair.to(torch.float64), 0.0
    for rows in (slice(0, 5), slice(5, None)):
        hs, hw, labels = pair.hidden_strong[rows], pair.hidden_weak[rows], pair.labels[rows]
        part = mixed_linear_cross_entropy(
            hs, pair.head_strong, hw, pair.head_weak, labels, 0.42, denominator=counted
        )
        part.backward()
        total += part.item()
    torch.testing.assert_close(total, whole.item())
    torch.testing.assert_close([tensor.grad for tensor in pair.tensors], expected)


def test_gradient_scales_with_what_comes_from_above() -> None:
    pair = make_pair()
    expected = gradients(written_out(pair, 0.42), pair)
    measured = gradients(-2.5 * mixed_linear_cross_entropy(*pair, 0.42), pair)
    torch.testing.assert_close(measured, tuple(-2.5 * gradient for gradient in expected))


def test_a_second_differentiation_is_refused() -> None:
    pair = make_pair()
    loss = mixed_linear_cross_entropy(*pair, 0.5)
    torch.autograd.grad(loss, pair.tensors, retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        gradients(loss, pair)
    loss = mixed_linear_cross_entropy(*pair, 0.5)
    with pytest.raises(RuntimeError, match="create_graph"):
        torch.autograd.grad(loss, pair.tensors, create_graph=True)


@pytest.mark.parametrize("way", ["widened", "16-bit"])
def test_autocast(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_products(way, monkeypatch)
    pair = make_pair(torch.float32)
    narrow = Pair._make([*(tensor.bfloat16() for tensor in pair.tensors), pair.labels])
    with torch.autocast("cpu", torch.bfloat16):
        # a backbone hands over 16-bit states, its head stays float32
        loss = mixed_linear_cross_entropy(narrow[0], pair[1], *pair[2:], 0.42)
        measured = gradients(loss, pair)
    by_hand = mixed_linear_cross_entropy(*narrow, 0.42)
    assert loss.dtype == torch.float32
    assert loss == by_hand
    for gradient, expected in zip(measured, gradients(by_hand, pair), strict=True):
        assert gradient.dtype == torch.float32
        assert distance(gradient, expected) < 4e-3
    exact = pair.to(torch.float64)
    assert distance(loss, written_out(exact, 0.42)) < 4e-3


def test_compiled_around() -> None:
    pair = make_pair()

    @torch.compile(backend="aot_eager")
    def double(hidden: Tensor) -> Tensor:
        return 2 * mixed_linear_cross_entropy(hidden.tanh(), *pair[1:], 0.42)

    loss = double(pair.hidden_strong)
    exact = 2 * written_out(pair._replace(hidden_strong=pair[0].tanh()), 0.42)
    torch.testing.assert_close(loss, exact)
    torch.testing.assert_close(gradients(loss, pair), gradients(exact, pair))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed(reentrant: bool) -> None:
    pair = make_pair()

    def run(hidden: Tensor) -> Tensor:
        return mixed_linear_cross_entropy(hidden.tanh(), *pair[1:], 0.42)

    checkpoint(run, pair.hidden_strong, use_reentrant=reentrant).backward()
    exact = written_out(pair._replace(hidden_strong=pair[0].tanh()), 0.42)
    expected = gradients(exact, pair)
    torch.testing.assert_close(tuple(tensor.grad for tensor in pair.tensors), expected)


def test_tied_embeddings_add_both_gradients() -> None:
    pair = make_pair()
    words = torch.randint(0, VOCABULARY, (37,))
    tied = pair._replace(hidden_strong=F.embedding(words, pair.head_strong).sin())
    measured = torch.autograd.grad(mixed_linear_cross_entropy(*tied, 0.42), pair[1])
    tied = pair._replace(hidden_strong=F.embedding(words, pair.head_strong).sin())
    expected = torch.autograd.grad(written_out(tied, 0.42), pair[1])
    torch.testing.assert_close(measured, expected)


def test_one_head_on_both_hidden_states() -> None:
    # torch's own fused loss on [h_strong; h_weak] with [λ·W_strong, (1−λ)·W_weak]
    hs, ws, hw, ww, labels = pair = make_pair()
    head = torch.cat((0.42 * ws, 0.58 * ww), 1)
    fused = F.linear_cross_entropy(torch.cat((hs, hw), 1), head, labels, ignore_index=IGNORE_INDEX)
    loss = mixed_linear_cross_entropy(*pair, 0.42)
    torch.testing.assert_close(loss, fused)
    torch.testing.assert_close(gradients(loss, pair), gradients(fused, pair))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lam": 1.1}, r"lam must lie in \[0, 1\], got 1.1"),
        ({"lam": -0.1}, "lam must lie"),
        ({"lam": float("nan")}, "lam must lie"),
        ({"denominator": 0}, "denominator must be positive"),
        ({"denominator": -3}, "denominator must be positive"),
        ({"head_weak": None}, "hidden_weak and head_weak go together"),
        ({"hidden_weak": None}, "hidden_weak and head_weak go together"),
        ({"labels": torch.zeros(36, dtype=torch.int64)}, "strong branch: hidden .* do not fit 36"),
        ({"labels": torch.zeros(37, 1, dtype=torch.int64)}, r"labels must be \[N\] int64"),
        ({"labels": torch.zeros(37)}, r"labels must be \[N\] int64"),
        ({"labels": torch.full((37,), VOCABULARY)}, "labels span"),
        ({"labels": torch.full((37,), -1)}, "labels span"),
        ({"hidden_strong": torch.zeros(37, 9).double()}, "strong branch: hidden"),
        ({"hidden_strong": torch.zeros(37, 16)}, "strong branch: hidden is torch.float32"),
        ({"head_weak": torch.zeros(100, 12).double()}, "weak branch: .* vocabulary of 101"),
        ({"hidden_weak": torch.zeros(37, 12), "head_weak": torch.zeros(101, 12)}, "float64 branch"),
        ({"hidden_weak": torch.zeros(37, 12, device="meta").double()}, "hidden on meta"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], message: str) -> None:
    arguments = {**make_pair()._asdict(), "lam": 0.5, **change}
    with pytest.raises(ValueError, match=message):
        mixed_linear_cross_entropy(**arguments)


# What the theory of the mixture says. Heads are identities, so hidden states are logits.


def on_logits(strong: Tensor, weak: Tensor | None, labels: Tensor, lam: float) -> Any:
    """Loss and full dynamics, per token losses added."""
    eye = torch.eye(strong.shape[1], dtype=strong.dtype)
    return mixed_linear_cross_entropy(
        strong,
        eye,
        weak,
        None if weak is None else eye,
        labels,
        lam,
        denominator=1,
        dynamics="full",
    )


def random_logits(tokens: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    strong, weak = 3 * torch.randn(2, tokens, 11, dtype=torch.float64)
    return strong.requires_grad_(), weak.requires_grad_(), torch.randint(0, 11, (tokens,))


def test_published_vector() -> None:
    strong = torch.tensor([[4.0, 1, 0]], dtype=torch.float64, requires_grad=True)
    weak = torch.tensor([[1.5, 1, 0.5]], dtype=torch.float64, requires_grad=True)
    loss, dynamics = on_logits(strong, weak, torch.tensor([0]), 0.5)
    loss.backward()
    gradient = torch.tensor([[-0.101866, 0.069185, 0.032681]], dtype=torch.float64)
    torch.testing.assert_close(loss.item(), 0.227820, rtol=0, atol=1e-6)
    torch.testing.assert_close(strong.grad, gradient, rtol=0, atol=1e-6)
    torch.testing.assert_close(weak.grad, gradient, rtol=0, atol=1e-6)
    torch.testing.assert_close(dynamics.mixed.p_target.item(), 0.796268, rtol=0, atol=1e-6)
    torch.testing.assert_close(dynamics.strong.entropy.item(), 0.274313, rtol=0, atol=1e-6)
    torch.testing.assert_close(dynamics.weak.entropy.item(), 1.020191, rtol=0, atol=1e-6)
    sft = on_logits(strong, None, torch.tensor([0]), 1).loss.item()
    torch.testing.assert_close(sft, 0.065884, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_token_is_amplified(dtype: torch.dtype) -> None:
    strong = torch.tensor([[12.0, 2, 0]], dtype=dtype, requires_grad=True)
    weak = torch.tensor([[2.0, 1.5, 0]], dtype=dtype)
    loss = on_logits(strong, weak, torch.tensor([0]), 0.5).loss
    sft = on_logits(strong, None, torch.tensor([0]), 1).loss
    (mixed_gradient,), (sft_gradient,) = (
        torch.autograd.grad(each, strong)[0].tolist() for each in (loss, sft)
    )
    assert mixed_gradient == pytest.approx([-0.003061, 0.002608, 0.000453], abs=1e-6)
    assert loss.item() == pytest.approx(0.006141, abs=1e-6)
    assert sft.item() == pytest.approx(0.000052, abs=1e-6)
    assert mixed_gradient[0] / sft_gradient[0] == pytest.approx(59.4, abs=0.05)


def test_amplification_needs_saturation() -> None:
    strong, weak, labels = random_logits(2000)
    lam, rows = 0.5, torch.arange(2000)
    p_strong = torch.softmax(strong, 1)[rows, labels]
    p_mixed = torch.softmax(lam * strong + (1 - lam) * weak, 1)[rows, labels]
    gradient, sft = (
        torch.autograd.grad(on_logits(strong, other, labels, share).loss, strong)[0][rows, labels]
        for other, share in ((weak, lam), (None, 1.0))
    )
    amplified = gradient.abs() > sft.abs()
    assert torch.equal(amplified, lam * (1 - p_mixed) > 1 - p_strong)
    assert 0 < amplified.sum() < len(amplified)
    assert not amplified[p_strong <= 1 - lam].any()


def test_each_branch_receives_its_share_of_one_gradient() -> None:
    strong, weak, labels = random_logits()
    loss = on_logits(strong, weak, labels, 0.42).loss
    to_strong, to_weak = torch.autograd.grad(loss, (strong, weak))
    residual = torch.softmax(0.42 * strong + 0.58 * weak, 1) - F.one_hot(labels, 11)
    torch.testing.assert_close(to_strong, 0.42 * residual)
    torch.testing.assert_close(to_weak, 0.58 * residual)


def test_mixture_is_a_geometric_mean() -> None:
    strong, weak, labels = random_logits()
    losses = [
        on_logits(strong, other, labels, lam).loss for other, lam in ((weak, 0.42), (None, 1.0))
    ]
    of_weak = on_logits(weak, None, labels, 1.0).loss
    overlap = torch.softmax(weak, 1) ** 0.58 * torch.softmax(strong, 1) ** 0.42
    constant = overlap.sum(1)
    assert (constant <= 1).all()
    expected = 0.58 * of_weak + 0.42 * losses[1] + constant.log().sum()
    torch.testing.assert_close(losses[0], expected)


def test_smaller_weak_margins_lower_the_target() -> None:
    strong, _, labels = random_logits()
    target = strong.gather(1, labels[:, None])
    lag = torch.rand_like(strong) * 2
    margins = target - strong - lag  # m_k(z_weak) <= m_k(z_strong) for all k
    weak = -margins.scatter(1, labels[:, None], 0)
    dynamics = on_logits(strong, weak, labels, 0.42).dynamics
    assert (dynamics.mixed.p_target <= dynamics.strong.p_target).all()


@pytest.mark.parametrize("shifted", ["strong", "weak"])
def test_a_constant_on_the_logits_changes_nothing(shifted: str) -> None:
    strong, weak, labels = random_logits()
    moved = {"strong": strong, "weak": weak}
    moved[shifted] = moved[shifted] + 7 * torch.randn(50, 1, dtype=torch.float64)
    results = [on_logits(s, w, labels, 0.42).loss for s, w in ((strong, weak), moved.values())]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*(torch.autograd.grad(loss, (strong, weak)) for loss in results))


def test_constant_weak_logits_only_scale() -> None:
    strong, weak, labels = random_logits()
    flat = on_logits(strong, torch.full_like(weak, 3.0), labels, 0.42).loss
    scaled = on_logits(strong, None, labels, 0.42).loss
    torch.testing.assert_close(flat, scaled)
    torch.testing.assert_close(*(torch.autograd.grad(each, strong) for each in (flat, scaled)))


@pytest.mark.device
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 8e-3)])
def test_on_this_device(dtype: torch.dtype, tolerance: float) -> None:
    pair = make_pair(dtype, tokens=301, confidence=2.2)
    exact_loss = written_out(exact := pair.to(torch.float64), 0.5)
    there = Pair._make([tensor.detach().to(DEVICE) for tensor in pair])
    for tensor in there.tensors:
        tensor.requires_grad_()
    loss = mixed_linear_cross_entropy(*there, 0.5, chunk_bytes=TEN_TOKENS * 5)
    usual = written_out(there, 0.5)
    assert distance(loss.cpu(), exact_loss) < tolerance
    for ours, theirs, truth in zip(
        gradients(loss, there), gradients(usual, there), gradients(exact_loss, exact), strict=True
    ):
        assert distance(ours.cpu(), truth) < tolerance
        # confident tokens: at least twice as exact, since CUDA's products come out in float32
        if dtype == torch.bfloat16 and DEVICE.type == "cuda":
            assert distance(ours.cpu(), truth) < distance(theirs.cpu(), truth) / 2
