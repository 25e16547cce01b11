"""Losses on pairs of a chosen and a rejected answer, without materialising logits.

The log-probabilities of an answer's tokens add up to one number; the loss is a function of these
sums, and its derivative by a sum is the weight of every token of that answer in the gradient.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wdl.losses.buffers import sent
from wdl.losses.chunks import SequenceChunks
from wdl.losses.linear_loss import counted_positions, divisor, linear_loss

Form = Literal["sigmoid", "ipo", "sigmoid_norm", "simpo"]

CHUNK_BYTES = {"cpu": 256 * 2**20, "cuda": 2**30}
"""Default memory for the logits of one chunk. A question that fits takes three products of states,
head and logits, a longer one almost four."""


@dataclass(frozen=True)
class Preference:
    """What is asked of a pair of answers: the loss of their log-probabilities.

    s is an answer's score, the sum of its tokens' log-probabilities less that of the reference,
    and d = s_chosen − s_rejected. Except for "sigmoid", scores are divided by the answer's tokens.

    - "sigmoid": −ln σ(βd), DPO (arXiv 2305.18290).
    - "ipo": (d − 1/(2β))², IPO (arXiv 2310.12036, equation 17, where β is called τ), on mean
      log-probabilities as its authors use it, according to TRL.
    - "sigmoid_norm": −ln σ(βd), TRL's length-normalised DPO.
    - "simpo": −ln σ(βd − γ) without a reference, SimPO (arXiv 2405.14734, equation 6).

    Label smoothing ε weighs the loss of the pair with 1 − ε and that of its reverse with ε: for
    the sigmoids −(1−ε)·ln σ(x) − ε·ln σ(−x) with x as above, as in cDPO and in TRL's CPOTrainer;
    for "ipo", which neither smooths, (1−ε)·(d − 1/(2β))² + ε·(−d − 1/(2β))².

    Args:
        form: sigmoid (DPO), ipo, sigmoid_norm (DPO on means per token) or simpo (no reference).
        beta: β, how far the model may go from the reference; about 0.1 for sigmoid, 5 for
            sigmoid_norm, 2 for simpo.
        margin: SimPO's γ itself, TRL's `simpo_gamma`, not the ratio γ/β; of simpo alone.
        nll: Weight of the chosen answer's mean negative log-likelihood per token, which is added
            to the loss of each pair (IRPO, arXiv 2404.19733).
        label_smoothing: ε, the share of pairs whose sides are taken to be exchanged; below 0.5.
    """

    form: Form = "sigmoid"
    beta: float = 0.1
    margin: float = 0.5
    nll: float = 0.0
    label_smoothing: float = 0.0

    @property
    def needs_reference(self) -> bool:
        """Whether the log-probabilities of a reference matter."""
        return self.form != "simpo"

    @property
    def has_margin(self) -> bool:
        """Whether ``margin`` matters."""
        return self.form == "simpo"

    def scores(self, logps: Tensor, reference: Tensor, lengths: Tensor) -> Tensor:
        """Scores s of answers, [S].

        Args:
            logps: [S], sums of log-probabilities.
            reference: [S], those of the reference; "simpo" does not read it.
            lengths: [S], tokens; an answer without any counts as one of one token.
        """
        if self.needs_reference:
            logps = logps - reference
        return logps if self.form == "sigmoid" else logps / lengths.clamp_min(1)

    def losses(self, differences: Tensor) -> Tensor:
        """Losses [P] of pairs, without NLL, from d [P], the differences of their scores."""
        kept, flipped = 1 - self.label_smoothing, self.label_smoothing
        if self.form == "ipo":
            target = 1 / (2 * self.beta)
            return kept * (differences - target) ** 2 + flipped * (differences + target) ** 2
        x = self.beta * differences - (self.margin if self.has_margin else 0)
        return -kept * F.logsigmoid(x) - flipped * F.logsigmoid(-x)


class PreferenceLoss(NamedTuple):
    """Loss of a batch of pairs and what it is made of; only `loss` has a graph.

    Attributes:
        loss: Scalar, `preference` + weight·`nll`.
        logps: [S] float64, sum of the log-probabilities of each sequence's tokens.
        preference: Scalar, the losses of the pairs without NLL, weighted, over the denominator.
        nll: Scalar, mean NLL per token of each pair's chosen answer, weighted as the pairs are,
            over the denominator, before it is multiplied by `Preference.nll`.
    """

    loss: Tensor
    logps: Tensor
    preference: Tensor
    nll: Tensor


@torch.compiler.disable
def linear_preference_loss(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    completions: Sequence[int],
    chosen: Sequence[int],
    rejected: Sequence[int],
    weights: Sequence[float],
    reference: Sequence[float] | Tensor | None,
    objective: Preference,
    *,
    denominator: float,
    chunk_bytes: int | None = None,
) -> PreferenceLoss:
    """Σ_p weights[p]·loss_p / denominator over pairs of sequences.

    A sequence may be in any number of pairs; it is passed once. Logits exist for one chunk of
    counted tokens at a time, and gradients are computed with them, so the head is read in the
    forward pass only. Where the sequences that pairs tie together, the answers to a question, fit
    into a chunk, their logits are computed once, otherwise twice. Products use autocast's dtype
    inside autocast, else that of their operands; logits and softmax are float32, or float64 for
    float64 inputs; sums over tokens are always float64.

    Args:
        hidden: [N, H] final hidden states of all positions.
        head: [V, H] output head, of the same dtype unless autocast is on.
        labels: [N] int64, the token that each position predicts (nothing is shifted here);
            IGNORE_INDEX where a position does not count.
        completions: [S], how many counted tokens each sequence has, in the order of the labels.
        chosen: [P], the position among the sequences of each pair's chosen answer.
        rejected: [P], of its rejected answer.
        weights: [P], weight of each pair.
        reference: [S], each sequence's sum of log-probabilities under the reference; None for an
            objective that needs none.
        objective: The loss of a pair.
        denominator: What the sum over pairs is divided by, so that micro-batches and ranks add up
            to one mean.
        chunk_bytes: Memory for the logits of one chunk; a default for the device if None.

    Returns:
        The loss, which can be differentiated once, and its parts; 0 with zero gradients if there
        is no pair.

    Raises:
        ValueError: If an argument is out of range or shapes, dtypes, devices or lengths of lists
            do not agree.
    """
    operands = {"strong": (hidden, head)}
    kept, counted = counted_positions(operands, labels)
    _check_lists(completions, len(counted), chosen, rejected, weights, reference)
    if chosen and reference is None and objective.needs_reference:
        raise ValueError(f"{objective.form} compares with a reference, which is None")
    pairs = _Pairs(
        list(zip(chosen, rejected, weights, strict=True)),
        completions,
        reference,
        objective,
        labels.device,
    )
    chunks = SequenceChunks(
        lengths=completions,
        ties=list(zip(chosen, rejected, strict=True)),
        loss_of=pairs.loss,
        denominator=divisor(denominator, len(chosen)),
        chunk_bytes=chunk_bytes or CHUNK_BYTES[labels.device.type],
    )
    loss = linear_loss(chunks.loss, operands, kept, counted)
    preference, nll = (torch.stack(pairs.parts).sum(0) / chunks.denominator).to(loss.dtype)
    return PreferenceLoss(loss, chunks.logps(), preference, nll)


def sequence_logps(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    completions: Sequence[int],
    *,
    chunk_bytes: int | None = None,
) -> Tensor:
    """Sum of the log-probabilities of each sequence's counted tokens, without a graph.

    Args:
        hidden: As for `linear_preference_loss`, like the others.
        head: Likewise.
        labels: Likewise.
        completions: Likewise.
        chunk_bytes: Likewise.

    Returns:
        [S] float64.

    Raises:
        ValueError: As there.
    """
    with torch.no_grad():
        return linear_preference_loss(
            hidden,
            head,
            labels,
            completions,
            [],
            [],
            [],
            None,
            Preference(),
            denominator=1,
            chunk_bytes=chunk_bytes,
        ).logps


class _Pairs:
    """Pairs of sequences and their loss, whose parts it collects.

    Args:
        pairs: Chosen, rejected and weight of each pair.
        lengths: [S], tokens of each sequence.
        reference: [S], 0 for None.
        objective: The loss of a pair.
        device: Where the log-probabilities are.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[int, int, float]],
        lengths: Sequence[int],
        reference: Sequence[float] | Tensor | None,
        objective: Preference,
        device: torch.device,
    ) -> None:
        self.objective = objective
        ascending = sorted(pairs)  # so that a range of sequences has a range of pairs
        self.firsts = [chosen for chosen, _, _ in ascending]
        sides = [side for *both, _ in ascending for side in both]
        self.sides = sent(sides, torch.int64, device).view(-1, 2)
        self.weights = sent([weight for *_, weight in ascending], torch.float64, device)
        self.lengths = sent(lengths, torch.float64, device)
        if not isinstance(reference, Tensor):
            reference = sent(reference or [0] * len(lengths), torch.float64, device)
        self.reference = reference.double()
        self.parts: list[Tensor] = []

    def loss(self, sequences: slice, logps: Tensor) -> Tensor:
        """Weighted losses of the pairs among a range of sequences, from their sums, added up."""
        here = slice(*(bisect_left(self.firsts, i) for i in (sequences.start, sequences.stop)))
        chosen, rejected = (self.sides[here] - sequences.start).unbind(1)
        lengths, reference = self.lengths[sequences], self.reference[sequences]
        scores = self.objective.scores(logps, reference, lengths)
        preference = self.objective.losses(scores[chosen] - scores[rejected])
        nll = -(logps / lengths.clamp_min(1))[chosen]
        parts = torch.stack((preference, nll)) @ self.weights[here]
        self.parts.append(parts.detach())
        return parts[0] + self.objective.nll * parts[1]


def _check_lists(
    completions: Sequence[int],
    counted: int,
    chosen: Sequence[int],
    rejected: Sequence[int],
    weights: Sequence[float],
    reference: Sequence[float] | Tensor | None,
) -> None:
    if min(completions, default=0) < 0 or sum(completions) != counted:
        raise ValueError(
            f"completions {list(completions)} are of {sum(completions)} tokens, {counted} count"
        )
    if not len(chosen) == len(rejected) == len(weights):
        raise ValueError(
            f"{len(chosen)} chosen, {len(rejected)} rejected and {len(weights)} weights: "
            "each pair has one of each"
        )
    if any(not 0 <= each < len(completions) for each in (*chosen, *rejected)):
        raise ValueError(f"a pair names a sequence outside [0, {len(completions) - 1}]")
    if reference is not None and len(reference) != len(completions):
        raise ValueError(f"{len(completions)} sequences have {len(reference)} reference values")
