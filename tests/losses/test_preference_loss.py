"""Losses of pairs against float64 autograd of the formulas written out, and against TRL."""

from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from conftest import ARCHITECTURES, DEVICE
from test_mixed_loss import VOCABULARY, distance, set_products
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from transformers import Qwen3Config, Qwen3ForCausalLM

from wdl.constants import IGNORE_INDEX
from wdl.losses import matmul
from wdl.losses.matmul import HeadProduct
from wdl.losses.preference import (
    Form,
    Preference,
    PreferenceLoss,
    linear_preference_loss,
    sequence_logps,
)

TOKEN = VOCABULARY * 8
"""Memory of the logits of one token in float64."""
FORMS: tuple[Form, ...] = get_args(Form)
OBJECTIVES = [
    Preference(form, beta=0.3, margin=0.7, nll=nll, label_smoothing=smoothing)
    for form in FORMS
    for nll, smoothing in [(0.0, 0.0), (0.6, 0.0), (0.0, 0.2), (0.6, 0.2)]
]


@dataclass
class Batch:
    """Arguments of the loss: three questions, and a sequence that is in no pair."""

    hidden: Tensor
    head: Tensor
    labels: Tensor
    completions: list[int]
    chosen: list[int]
    rejected: list[int]
    weights: list[float]
    reference: list[float] | None

    def to(self, dtype: torch.dtype) -> "Batch":
        """A copy with leaves of another dtype."""
        hidden, head = (t.detach().to(dtype).requires_grad_() for t in (self.hidden, self.head))
        return replace(self, hidden=hidden, head=head)

    def loss(self, objective: Preference, chunk_bytes: int | None = None) -> PreferenceLoss:
        return linear_preference_loss(
            **vars(self), objective=objective, denominator=3, chunk_bytes=chunk_bytes
        )


def make_batch(dtype: torch.dtype = torch.float64, confidence: float = 0.0) -> Batch:
    """Random states, which favour their targets by `confidence`; prompts do not count."""
    generator = torch.Generator().manual_seed(0)
    completions = [5, 9, 6, 1, 7, 30, 2, 4, 3]
    labels = []
    for tokens in completions:
        answer = torch.randint(0, VOCABULARY, (tokens,), generator=generator)
        labels += [torch.full((3,), IGNORE_INDEX), answer]
    whole = torch.cat(labels)
    head = torch.randn(VOCABULARY, 16, generator=generator)
    towards = confidence * F.normalize(head[whole.clamp_min(0)], dim=1)
    hidden = torch.randn(len(whole), 16, generator=generator) + towards
    return Batch(
        hidden,
        head,
        whole,
        completions,
        chosen=[6, 2, 0, 4],
        rejected=[7, 0, 1, 5],
        weights=[0.7, 0.5, 1.2, 1.3],
        reference=[-5.5 * tokens - 0.1 * i for i, tokens in enumerate(completions)],
    ).to(dtype)


def token_logps(batch: Batch) -> list[Tensor]:
    """Log-probabilities of each sequence's tokens, from all logits, no narrower than float32."""
    z = batch.hidden @ batch.head.T
    z = z if z.dtype == torch.float64 else z.float()
    counted = batch.labels != IGNORE_INDEX
    logps = z[counted].log_softmax(1).gather(1, batch.labels[counted].unsqueeze(1)).squeeze(1)
    return list(logps.split(batch.completions))


def pair_loss(objective: Preference, chosen: list[Tensor], rejected: list[Tensor]) -> Tensor:
    """One pair by the papers' formulas; (sum, reference, tokens) of each side."""
    (pc, rc, lc), (pr, rr, lr) = chosen, rejected
    beta, epsilon = objective.beta, objective.label_smoothing

    def smoothed(x: Tensor) -> Tensor:
        return -(1 - epsilon) * torch.sigmoid(x).log() - epsilon * torch.sigmoid(-x).log()

    if objective.form == "sigmoid":
        return smoothed(beta * (pc - rc) - beta * (pr - rr))
    if objective.form == "sigmoid_norm":
        return smoothed(beta * (pc - rc) / lc - beta * (pr - rr) / lr)
    if objective.form == "simpo":
        return smoothed(beta / lc * pc - beta / lr * pr - objective.margin)
    forwards, backwards = ((pc - rc) / lc - (pr - rr) / lr), ((pr - rr) / lr - (pc - rc) / lc)
    regression = [(h - 1 / (2 * beta)) ** 2 for h in (forwards, backwards)]
    return (1 - epsilon) * regression[0] + epsilon * regression[1]


def written_out(batch: Batch, objective: Preference) -> Tensor:
    """The loss with all logits."""
    total: Any = 0
    logps = token_logps(batch)
    reference = torch.tensor(batch.reference or [0] * len(logps), dtype=torch.float64)
    for c, r, weight in zip(batch.chosen, batch.rejected, batch.weights, strict=True):
        sides = [
            [logps[i].sum(), reference[i], torch.tensor(len(logps[i]), dtype=torch.float64)]
            for i in (c, r)
        ]
        nll = -logps[c].mean()
        total = total + weight * (pair_loss(objective, *sides) + objective.nll * nll)
    return total / 3


def gradients(loss: Tensor, batch: Batch) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, (batch.hidden, batch.head))


def assert_close(ours: tuple[Tensor, ...], exact: tuple[Tensor, ...], tolerance: float) -> None:
    for measured, expected in zip(ours, exact, strict=True):
        assert distance(measured, expected) < tolerance


# the longest question has 37 tokens, all have 67
@pytest.mark.parametrize("tokens", [1, 8, 20, 36, 37, 43, 1000])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_equals_autograd_of_the_formula(objective: Preference, tokens: int) -> None:
    batch = make_batch()
    result = batch.loss(objective, tokens * TOKEN)
    exact = written_out(batch, objective)
    assert distance(result.loss, exact) < 1e-12
    assert_close(gradients(result.loss, batch), gradients(exact, batch), 1e-12)
    assert result.logps.dtype == torch.float64
    expected = torch.stack([each.sum() for each in token_logps(batch)]).detach()
    torch.testing.assert_close(result.logps, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 1e-3)])
def test_narrower_dtypes(dtype: torch.dtype, tolerance: float, form: Form) -> None:
    batch, objective = make_batch(dtype), Preference(form, nll=0.5)
    result = batch.loss(objective, TOKEN * 10)
    exact = written_out(wide := batch.to(torch.float64), objective)
    assert result.loss.dtype == torch.float32
    assert distance(result.loss, exact) < tolerance
    for gradient, tensor, expected in zip(
        gradients(result.loss, batch),
        (batch.hidden, batch.head),
        gradients(exact, wide),
        strict=True,
    ):
        assert gradient.dtype == tensor.dtype
        assert distance(gradient, expected) < tolerance


@pytest.mark.parametrize(
    ("way", "confidence", "share"),
    [("widened", 0, 1.02), ("widened", 2.2, 0.75), ("16-bit", 0, 1.5), ("16-bit", 2.2, 1.5)],
)
def test_bfloat16_is_no_worse_than_materialised_bfloat16(
    way: str, confidence: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_products(way, monkeypatch)
    batch, objective = make_batch(torch.bfloat16, confidence), Preference()
    exact = written_out(wide := batch.to(torch.float64), objective)
    loss, usual = batch.loss(objective, TOKEN * 20).loss, written_out(batch, objective)
    assert distance(loss, exact) <= distance(usual, exact) + 1e-4
    for ours, theirs, truth in zip(
        gradients(loss, batch), gradients(usual, batch), gradients(exact, wide), strict=True
    ):
        assert distance(ours, truth) <= share * distance(theirs, truth)


@pytest.mark.parametrize("way", ["widened", "16-bit"])
def test_autocast(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_products(way, monkeypatch)
    batch, objective = make_batch(torch.float32), Preference(nll=0.5)
    narrow = batch.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        # a backbone hands over 16-bit states, its head stays float32
        mixed = replace(batch, hidden=narrow.hidden)
        loss = mixed.loss(objective).loss
        measured = gradients(loss, mixed)
    by_hand = narrow.loss(objective).loss
    assert loss == by_hand
    assert [gradient.dtype for gradient in measured] == [torch.bfloat16, torch.float32]
    assert_close(measured, gradients(by_hand, narrow), 4e-3)
    exact = written_out(batch.to(torch.float64), objective)
    assert distance(loss, exact) < 4e-3


@pytest.mark.parametrize("chunk_bytes", [1, None])
def test_confident_tokens_keep_loss_and_gradient(chunk_bytes: int | None) -> None:
    # 1 - P[y] = 8e-10 is lost next to P[y] in float32, but not where it stands alone
    logits = torch.tensor([[21.0, 0, -3], [21, 0, -3], [0, 5, 0]], requires_grad=True)
    labels = torch.tensor([0, 0, 1])
    objective = Preference("simpo", nll=1)
    results = []
    for states in (logits, logits.detach().double().requires_grad_()):
        eye = torch.eye(3, dtype=states.dtype)
        results.append(
            linear_preference_loss(
                *(states, eye, labels, [2, 1], [0], [1], [1], None, objective),
                denominator=1,
                chunk_bytes=chunk_bytes,
            )
        )
        results[-1].loss.backward()
        expected = states.grad
    assert logits.grad is not None
    assert expected is not None
    torch.testing.assert_close(results[0].logps, results[1].logps, rtol=1e-6, atol=0)
    torch.testing.assert_close(logits.grad, expected.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("tokens", [1, 20, 1000])
@pytest.mark.parametrize("form", FORMS)
def test_a_question_equals_its_pairs_one_by_one(form: Form, tokens: int) -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = [3, 8, 5, 2, 9, 4, 7, 6]
    right = [0, 2, 5]
    pairs = [(c, r) for c in right for r in range(8) if r not in right]
    hidden = torch.randn(sum(lengths), 16, generator=generator).double().requires_grad_()
    head = torch.randn(VOCABULARY, 16, generator=generator).double().requires_grad_()
    labels = torch.randint(0, VOCABULARY, (sum(lengths),), generator=generator)
    reference = [-4.0 * length for length in lengths]
    chosen, rejected = (list(side) for side in zip(*pairs, strict=True))
    weights = [1 / len(pairs)] * len(pairs)
    once = Batch(hidden, head, labels, lengths, chosen, rejected, weights, reference)
    members = [i for pair in pairs for i in pair]
    rows = torch.cat([torch.arange(sum(lengths)).split(lengths)[i] for i in members])
    places = range(0, len(members), 2)
    again = Batch(
        hidden[rows],
        head,
        labels[rows],
        [lengths[i] for i in members],
        list(places),
        [i + 1 for i in places],
        weights,
        [reference[i] for i in members],
    )
    objective = Preference(form, nll=0.3)
    ours, duplicated = (batch.loss(objective, tokens * TOKEN).loss for batch in (once, again))
    assert distance(ours, duplicated) < 1e-12
    assert_close(gradients(ours, once), gradients(duplicated, once), 1e-12)


def test_parts_add_up_to_the_loss() -> None:
    batch = make_batch()
    plain = batch.loss(Preference())
    result = batch.loss(Preference(nll=0.4))
    torch.testing.assert_close(result.loss, result.preference + 0.4 * result.nll)
    assert (result.preference, result.nll) == (plain.preference, plain.nll)
    means = [-each.mean() for each in token_logps(batch)]
    nll = sum(w * means[c] for c, w in zip(batch.chosen, batch.weights, strict=True)) / 3
    torch.testing.assert_close(result.nll, torch.as_tensor(nll).detach())
    assert not any(each.requires_grad for each in result[1:])


def test_half_a_pair_of_labels_flipped_is_no_preference() -> None:
    batch = make_batch()
    (hidden, head) = gradients(batch.loss(Preference("ipo", label_smoothing=0.5)).loss, batch)
    (wide, _) = gradients(batch.loss(Preference("ipo", beta=1e9)).loss, batch)  # target 0
    assert distance(hidden, wide) < 1e-6
    assert head.any()


def seen_products(monkeypatch: pytest.MonkeyPatch) -> list[slice]:
    """The tokens of each product of hidden states and head that is made from now on."""
    seen: list[slice] = []
    add = HeadProduct.add_logits_

    def spy(self: HeadProduct, out: Tensor, rows: slice, *arguments: Any, **options: Any) -> None:
        seen.append(rows)
        add(self, out, rows, *arguments, **options)

    monkeypatch.setattr(HeadProduct, "add_logits_", spy)
    return seen


@pytest.mark.parametrize(
    ("tokens", "products"),
    [
        (1000, [(0, 67)]),
        # what no pair ties together is cut
        (45, [(0, 21), (21, 58), (58, 67)]),
        # what does not fit is passed backwards, then forwards without its first part
        (20, [(0, 20), (20, 21), (40, 58), (21, 40), (40, 58), (58, 67)]),
    ],
)
def test_what_fits_is_passed_once(
    tokens: int, products: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = seen_products(monkeypatch)
    batch = make_batch()
    batch.loss(Preference(), tokens * TOKEN)
    assert [(rows.start, rows.stop) for rows in seen] == products
    seen.clear()
    with torch.no_grad():
        batch.loss(Preference(), tokens * TOKEN)
    assert len(seen) == len(set(products))


class Largest(TorchDispatchMode):
    """Notes the most rows that any operation returns with a column for each word.

    Args:
        head: An output head, whose transpose has such columns too and is not meant.
    """

    def __init__(self, head: Tensor) -> None:
        super().__init__()
        self.head, self.rows = head.untyped_storage().data_ptr(), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        columns = result.shape[-1:] if isinstance(result, Tensor) else ()
        if columns == (VOCABULARY,) and result.untyped_storage().data_ptr() != self.head:
            self.rows = max(self.rows, result.numel() // VOCABULARY)
        return result


@pytest.mark.parametrize("tokens", [1, 8, 20, 45])
def test_never_more_than_a_chunk_of_logits(tokens: int) -> None:
    batch = make_batch()
    with Largest(batch.head) as largest:
        batch.loss(Preference(), tokens * TOKEN).loss.backward()
    assert 0 < largest.rows <= tokens
    with Largest(batch.head) as largest:
        written_out(batch, Preference())
    assert largest.rows >= 67


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("completions", [[], [0], [67]], ids=str)
def test_no_pair_gives_zero(completions: list[int], form: Form) -> None:
    batch = make_batch()
    batch.completions, batch.reference = completions, None
    batch.chosen, batch.rejected, batch.weights = [], [], []
    if sum(completions) == 0:
        batch.labels = torch.full_like(batch.labels, IGNORE_INDEX)
    result = linear_preference_loss(**vars(batch), objective=Preference(form), denominator=0)
    assert (result.loss, result.preference, result.nll) == (0, 0, 0)
    assert len(result.logps) == len(batch.completions)
    assert [gradient.any() for gradient in gradients(result.loss, batch)] == [False, False]


def test_a_pair_without_tokens_is_finite() -> None:
    batch = make_batch()
    batch = replace(batch, completions=[0, *batch.completions], reference=[0.0] * 10)
    for form in FORMS:
        loss = batch.loss(Preference(form, nll=1)).loss
        assert all(each.isfinite().all() for each in (loss, *gradients(loss, batch)))


@pytest.mark.parametrize("chunk_bytes", [20 * TOKEN, None])
def test_log_probabilities_alone(chunk_bytes: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "Gradient", None)  # a call would fail
    batch, objective = make_batch(), Preference()
    logps = sequence_logps(
        batch.hidden, batch.head, batch.labels, batch.completions, chunk_bytes=chunk_bytes
    )
    expected = torch.stack([each.sum() for each in token_logps(batch)])
    torch.testing.assert_close(logps, expected.detach(), rtol=1e-12, atol=0)
    with torch.inference_mode():  # as trainers validate
        result = batch.loss(objective, chunk_bytes)
    assert torch.equal(result.logps, logps)
    assert not logps.requires_grad
    torch.testing.assert_close(result.loss, written_out(batch, objective).detach())


@pytest.mark.parametrize("frozen", ["hidden", "head"])
def test_what_is_frozen_gets_no_gradient_buffer(frozen: str) -> None:
    batch = make_batch()
    expected = dict(
        zip(("hidden", "head"), gradients(written_out(batch, Preference()), batch), strict=True)
    )
    getattr(batch, frozen).requires_grad_(False)
    loss: Any = batch.loss(Preference()).loss
    assert sum(each is None for each in loss.grad_fn.gradients) == 1
    loss.backward()
    assert getattr(batch, frozen).grad is None
    (other,) = {"hidden", "head"} - {frozen}
    torch.testing.assert_close(getattr(batch, other).grad, expected[other])


def test_the_head_is_read_in_the_forward_pass_only() -> None:
    batch = make_batch()
    expected = gradients(written_out(batch, Preference()), batch)
    loss = batch.loss(Preference()).loss
    batch.head.data.fill_(torch.nan)  # as ZeRO-3 does when it takes parameters apart again
    torch.testing.assert_close(gradients(loss, batch), expected)


def test_gradient_scales_with_what_comes_from_above() -> None:
    batch = make_batch()
    expected = gradients(-2.5 * written_out(batch, Preference()), batch)
    torch.testing.assert_close(gradients(-2.5 * batch.loss(Preference()).loss, batch), expected)


def small_qwen(shift: float, tied: bool = False) -> Qwen3ForCausalLM:
    """A Qwen3 whose weights are waves, the same in every version of every library."""
    settings = ARCHITECTURES["qwen3-tied" if tied else "qwen3-untied"].to_dict()
    model = Qwen3ForCausalLM(Qwen3Config(**settings))
    for number, (_, weight) in enumerate(sorted(model.named_parameters())):
        waves = torch.arange(weight.numel(), dtype=torch.float64).mul(1.7 + number).add(shift).sin()
        weight.data.copy_((1 + 0.1 * waves if weight.dim() == 1 else 0.4 * waves).view_as(weight))
    return model.double()


QWEN_PAIRS = [
    ([5, 9, 14], [20, 21, 22, 23, 1], [30, 31, 1]),
    ([7, 7], [40, 1], [41, 42, 43, 44, 45, 46, 1]),
    ([250, 3, 8, 299], [100, 150, 200, 1], [100, 151, 1]),
]
"""Token ids of prompts, chosen and rejected answers."""


def of_qwen(model: Qwen3ForCausalLM) -> dict[str, Any]:
    """Hidden states, head, labels and lengths of all sequences, chosen before rejected."""
    hidden, labels, completions = [], [], []
    for prompt, *answers in QWEN_PAIRS:
        for answer in answers:
            hidden.append(model.model(torch.tensor([prompt + answer])).last_hidden_state[0])
            ignored = [IGNORE_INDEX] * (len(prompt) - 1)
            labels.append(torch.tensor([*ignored, *answer, IGNORE_INDEX]))
            completions.append(len(answer))
    return {
        "hidden": torch.cat(hidden),
        "head": model.lm_head.weight,
        "labels": torch.cat(labels),
        "completions": completions,
    }


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_gradients_of_a_whole_model(tied: bool, checkpointed: bool) -> None:
    model = small_qwen(0.0, tied).train()
    if checkpointed:
        model.gradient_checkpointing_enable()
    pairs: dict[str, Any] = {
        "chosen": [0, 2, 4],
        "rejected": [1, 3, 5],
        "weights": [1.0, 0.5, 0.25],
        "reference": [-20.0, -12, -8, -30, -17, -13],
    }
    objective = Preference(nll=0.2)
    batch = Batch(**of_qwen(model), **pairs)
    parameters = list(model.parameters())
    measured = torch.autograd.grad(batch.loss(objective).loss, parameters)
    exact = written_out(Batch(**of_qwen(model), **pairs), objective)
    assert_close(measured, torch.autograd.grad(exact, parameters), 1e-12)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed(reentrant: bool) -> None:
    batch, objective = make_batch(), Preference()

    def run(hidden: Tensor) -> Tensor:
        return replace(batch, hidden=hidden.tanh()).loss(objective).loss

    checkpoint(run, batch.hidden, use_reentrant=reentrant).backward()
    exact = written_out(replace(batch, hidden=batch.hidden.tanh()), objective)
    expected = gradients(exact, batch)
    torch.testing.assert_close((batch.hidden.grad, batch.head.grad), expected)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (Preference(), [0.6647496819496155, 0.6590149998664856, 0.6740278005599976]),
        (Preference("ipo"), [24.16063690185547, 23.21627426147461, 23.848480224609375]),
        (
            Preference("sigmoid_norm", beta=2),
            [0.6120728850364685, 0.5278867483139038, 0.5834094882011414],
        ),
        (Preference(nll=0.7), [4.658979415893555, 4.463675498962402, 4.6999359130859375]),
        (
            Preference(label_smoothing=0.2),
            [0.6762746572494507, 0.672909140586853, 0.6817500591278076],
        ),
        (
            Preference("simpo", beta=2, margin=0.5),
            [0.8322350382804871, 0.5496542453765869, 0.9996815919876099],
        ),
        (
            Preference("simpo", beta=2, margin=0.5, label_smoothing=0.2),
            [0.7800008058547974, 0.6118706464767456, 0.8915173411369324],
        ),
    ],
    ids=str,
)
def test_equals_trl(objective: Preference, expected: list[float]) -> None:
    """The losses that TRL 1.16.0 computes for `QWEN_PAIRS`, one at a time, in float32.

    Policy `small_qwen(0)`, reference `small_qwen(0.5)`. DPOTrainer.compute_loss with loss_type
    "sigmoid", "ipo" and "sigmoid_norm"; NLL is ["sigmoid", "sft"] weighted [1, 0.7], whose mean
    over tokens is that of one pair; its "sigmoid" does not smooth, but "aot", which is the same
    for one pair, does. simpo is CPOTrainer's, with cpo_alpha 0.
    """
    with torch.no_grad():
        policy, before = of_qwen(small_qwen(0.0)), of_qwen(small_qwen(0.5))
    reference = sequence_logps(**before).tolist()
    measured = [
        linear_preference_loss(
            **policy,
            chosen=[2 * i],
            rejected=[2 * i + 1],
            weights=[1],
            reference=reference if objective.needs_reference else None,
            objective=objective,
            denominator=1,
        ).loss.item()
        for i in range(3)
    ]
    assert measured == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"denominator": 0}, "denominator must be positive"),
        ({"denominator": -1}, "denominator must be positive"),
        ({"labels": torch.zeros(93)}, r"labels must be \[N\] int64"),
        ({"labels": torch.full((94,), VOCABULARY)}, "labels span"),
        ({"head": torch.zeros(VOCABULARY, 9).double()}, "strong branch: hidden .* do not fit"),
        ({"head": torch.zeros(VOCABULARY, 16)}, "strong branch: hidden is torch.float64"),
        ({"completions": [5, 9, 6, 1, 7, 30, 2, 4, 4]}, "of 68 tokens, 67 count"),
        ({"completions": [5, 9, 6, 1, 7, 30, 2, 8, -1]}, "of 67 tokens, 67 count"),
        ({"chosen": [0]}, "1 chosen, 4 rejected and 4 weights"),
        ({"weights": []}, "4 chosen, 4 rejected and 0 weights"),
        ({"rejected": [1, 2, 3, 9]}, r"a pair names a sequence outside \[0, 8\]"),
        ({"chosen": [1, 2, 3, -1]}, "a pair names a sequence outside"),
        ({"reference": [0.0]}, "9 sequences have 1 reference values"),
        ({"reference": None}, "ipo compares with a reference, which is None"),
    ],
    ids=str,
)
def test_wrong_arguments(change: dict[str, Any], message: str) -> None:
    arguments = {**vars(make_batch()), "denominator": 3, **change}
    with pytest.raises(ValueError, match=message):
        linear_preference_loss(**arguments, objective=Preference("ipo"))


@pytest.mark.device
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 8e-3)])
def test_on_this_device(dtype: torch.dtype, tolerance: float) -> None:
    batch, objective = make_batch(dtype), Preference(nll=0.2)
    exact = written_out(wide := batch.to(torch.float64), objective)
    hidden, head = (t.detach().to(DEVICE).requires_grad_() for t in (batch.hidden, batch.head))
    there = replace(batch, hidden=hidden, head=head, labels=batch.labels.to(DEVICE))
    loss = there.loss(objective, TOKEN * 20).loss
    assert distance(loss.cpu(), exact) < tolerance
    ours = tuple(gradient.cpu() for gradient in gradients(loss, there))
    assert_close(ours, gradients(exact, wide), tolerance)
