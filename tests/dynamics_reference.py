"""Every quantity of the logit dynamics by its definition, in float64, from whole logits."""

import torch
from torch import Tensor


def reference(
    strong: Tensor, weak: Tensor, labels: Tensor, lam: float, tokens: list[int]
) -> dict[str, float]:
    """Means by name; `strong` and `weak` [N, V], `labels` [N], `tokens` per sample."""
    rows = range(len(labels))
    logits = {"weak": weak.double(), "strong": strong.double()}
    logits["mixed"] = lam * logits["strong"] + (1 - lam) * logits["weak"]
    onehot = torch.nn.functional.one_hot(labels, strong.shape[1]).double()
    found: dict[str, Tensor] = {}
    for name, z in logits.items():
        p = torch.softmax(z, 1)
        rest = torch.stack([torch.cat((z[i, : labels[i]], z[i, labels[i] + 1 :])) for i in rows])
        per_token = {
            "target": (z * onehot).sum(1),
            "non_target_mean": rest.mean(1),
            "margin": (z * onehot).sum(1) - rest.mean(1),
            "std": z.var(1, correction=0).sqrt(),
            "centred_norm": (z - z.mean(1, keepdim=True)).norm(dim=1),
            "max": z.max(1).values,
            "min": z.min(1).values,
            "p_max": p.max(1).values,
            "p_target": (p * onehot).sum(1),
            "saturation": ((p * onehot).sum(1) > 0.99).double(),
            "residual_norm": (p - onehot).norm(dim=1),
            "entropy": torch.special.entr(p).sum(1),
        }
        found |= {f"{key}/{name}": value for key, value in per_token.items()}
    p_strong, p_mixed = (torch.softmax(logits[name], 1) for name in ("strong", "mixed"))
    received, alone = lam * (p_mixed - onehot).norm(dim=1), (p_strong - onehot).norm(dim=1)
    saturated = (p_strong * onehot).sum(1) > 0.99
    leads = [(z * onehot).sum(1, keepdim=True) - z for z in (logits["weak"], logits["strong"])]
    hard = (leads[0] < leads[1]) & ~onehot.bool()
    change = found["entropy/strong"] - found["entropy/weak"]
    found |= {
        "amplification/all": received.sum() / alone.sum(),
        "amplification/saturated": received[saturated].sum() / alone[saturated].sum(),
        "kl/mixed_strong": (p_mixed * (p_mixed / p_strong).log()).sum(1),
        "agreement/weak_strong": (weak.argmax(1) == strong.argmax(1)).double(),
        "hard_negatives/share": hard.double().mean(1),
        "hard_negatives/mass": (p_mixed * hard).sum(1),
        "entropy_change/weak_to_strong": torch.stack([s.mean() for s in change.split(tokens)]),
    }
    return {name: value.mean().item() for name, value in found.items()}
