"""Preference training under the real strategy, against autograd of the written formulas."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from conftest import encode
from events import read_events
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from wdl.callbacks.dynamics import BranchLogger

from wdl.branches.lora import Lora
from wdl.branches.sources import model_digest
from wdl.config.paths import DataSource, ModelSource
from wdl.data.encoding import end_of_turn
from wdl.data.preference import PreferenceDataModule
from wdl.errors import UserError
from wdl.losses.preference import Preference
from wdl.training.deepspeed import DeepSpeed
from wdl.training.pair import Pair
from wdl.training.preference import PreferenceModule
from wdl.training.weak_driven import WeakDrivenModule

LR = 0.05
ROWS: list[dict[str, Any]] = [
    {
        "prompt": f"What is {n} + {n}?",
        "chosen": [f"It is {2 * n}." + "!" * k for k in range(1 + n % 3)],
        "rejected": [f"It is {2 * n + 1}." + "?" * (2 * k) for k in range(1 + n % 2)],
    }
    for n in range(20)
]


@pytest.fixture
def pairs(write_rows: Callable[..., Path]) -> Path:
    return write_rows(ROWS, "pairs.jsonl")


def fit(
    data: Path,
    strong: Path,
    weak: Path | None = None,
    max_steps: int = 2,
    precision: Any = "32-true",
    logger: Any = False,
    resume: Path | None = None,
    save: Path | None = None,
    sizes: dict[str, Any] | None = None,
    **settings: Any,
) -> tuple[PreferenceModule, pl.Trainer]:
    """Steps of 8 questions with plain SGD, under DeepSpeed on the CPU."""
    reference = None if weak is None else ModelSource(weak)
    module = PreferenceModule(
        ModelSource(strong),
        reference,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=LR),
        schedule="constant",
        warmup=0,
        **settings,
    )
    given = {"batch_size": 8, "micro_batch_size": 4, "val_fraction": 0.2, **(sizes or {})}
    datamodule = PreferenceDataModule(
        DataSource(data), ModelSource(strong), reference, module.stored_reference, **given
    )
    trainer = pl.Trainer(
        strategy=DeepSpeed(stage=2),
        accelerator="cpu",
        max_steps=max_steps,
        precision=precision,
        logger=logger,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[] if save is None else [Save(save)],
    )
    trainer.fit(module, datamodule, ckpt_path=None if resume is None else str(resume))
    return module, trainer


class Save(pl.Callback):
    """A checkpoint of the end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.path)


class Expected:
    """The same training by hand: a pair at a time, whole logits, float64."""

    def __init__(self, strong: Path, weak: Path, objective: Preference) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(strong)
        self.end = end_of_turn(self.tokenizer)
        self.policy, self.reference = (
            AutoModelForCausalLM.from_pretrained(folder).double() for folder in (strong, weak)
        )
        self.objective = objective

    def logp(self, model: PreTrainedModel, prompt: str, answer: str) -> tuple[Tensor, int]:
        message = [{"role": "user", "content": prompt}]
        sample = encode(self.tokenizer, message, answer, self.end)
        ids = torch.tensor([sample["input_ids"]])
        logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        picked = logps.gather(1, ids[0, 1:, None])[sample["prompt_length"] - 1 :]
        return picked.sum(), len(picked)

    def scores(self, row: dict[str, Any]) -> Iterator[tuple[Tensor, ...]]:
        """Of each pair: log-probabilities, references and lengths of chosen and rejected."""
        for chosen in row["chosen"]:
            for rejected in row["rejected"]:
                sides = (chosen, rejected)
                found = [self.logp(self.policy, row["prompt"], side) for side in sides]
                with torch.no_grad():
                    under = [self.logp(self.reference, row["prompt"], s)[0] for s in sides]
                (c, lc), (r, lr) = found
                yield c, r, *under, torch.tensor(lc), torch.tensor(lr)

    def loss(self, rows: list[dict[str, Any]]) -> Tensor:
        """Mean over questions of the mean over their pairs."""
        o, total = self.objective, torch.zeros((), dtype=torch.float64)
        for row in rows:
            losses = []
            for c, r, rc, rr, lc, lr in self.scores(row):
                if o.form == "sigmoid":
                    x = o.beta * ((c - rc) - (r - rr))
                elif o.form == "sigmoid_norm":
                    x = o.beta * ((c - rc) / lc - (r - rr) / lr)
                elif o.form == "simpo":
                    x = o.beta * (c / lc - r / lr) - o.margin
                else:
                    x = (c - rc) / lc - (r - rr) / lr
                if o.form == "ipo":
                    loss = (x - 1 / (2 * o.beta)) ** 2
                else:
                    e = o.label_smoothing
                    loss = -(1 - e) * logsigmoid(x) - e * logsigmoid(-x)
                losses.append(loss - o.nll * c / lc)
            total = total + torch.stack(losses).mean()
        return total / len(rows)

    def step(self, rows: list[dict[str, Any]]) -> float:
        loss = self.loss(rows)
        self.policy.zero_grad()
        loss.backward()
        with torch.no_grad():
            for weight in self.policy.parameters():
                assert weight.grad is not None
                weight.sub_(weight.grad, alpha=LR)
        return loss.item()


def of_each_step(module: PreferenceModule) -> list[list[dict[str, Any]]]:
    """The rows of the optimizer steps of the first epoch."""
    data = module._data
    assert data.plan is not None
    idx = data.train_samples["idx"]
    return [[ROWS[idx[i]] for part in step for i in part.samples] for step in data.plan.epoch(0)]


OBJECTIVES = [
    Preference("sigmoid"),
    Preference("sigmoid", nll=0.7, label_smoothing=0.1),
    Preference("ipo", beta=0.5),
    Preference("sigmoid_norm", beta=5.0),
    Preference("simpo", beta=2.0),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{o.form}-{o.nll}")
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_steps_are_those_of_the_written_formula(
    objective: Preference, packed: bool, pairs: Path, pair: tuple[Path, Path]
) -> None:
    strong, weak = pair
    against = weak if objective.needs_reference else None
    sizes = {"max_tokens": 600, "max_length": 600, "micro_batch_size": 1} if packed else {}
    if packed:
        sizes["batch_size"] = 2
    module, _ = fit(pairs, strong, against, objective=objective, sizes=sizes)
    expected = Expected(strong, weak, objective)
    steps = of_each_step(module)[:2]
    losses = [expected.step(rows) for rows in steps]
    assert module._step.loss.item() == pytest.approx(losses[-1], rel=1e-5)
    ours = dict(module.strong.named_parameters())
    for name, weight in expected.policy.named_parameters():
        torch.testing.assert_close(ours[name].double(), weight, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("kind", ["stored", "branch", "adapter"])
def test_every_reference_gives_the_same_loss(
    kind: str, pairs: Path, pair: tuple[Path, Path]
) -> None:
    strong, weak = pair
    settings: dict[str, Any] = {"reference": "stored" if kind == "stored" else "branch"}
    against = weak
    if kind == "adapter":
        settings["lora"], against = Lora(rank=4), strong
    module, _ = fit(pairs, strong, against, max_steps=1, **settings)
    found = module._step.loss.item()
    expected = Expected(strong, against, Preference()).loss(of_each_step(module)[0])
    assert found == pytest.approx(expected.item(), rel=1e-5)
    held = {name.split(".")[1] for name in module.state_dict() if name.startswith("branches")}
    assert held == {"strong"}


def test_at_the_start_nothing_is_preferred(pairs: Path, pair: tuple[Path, Path]) -> None:
    module, _ = fit(pairs, pair[0], max_steps=1)
    assert module._step.loss.item() == pytest.approx(math.log(2), rel=1e-6)


def test_stored_numbers_are_not_rounded_with_the_weights(
    pairs: Path, pair: tuple[Path, Path]
) -> None:
    """What a precision plugin does to tensors of a batch would be an error of up to 0.4 %."""
    seen: list[list[float]] = []

    class Watched(PreferenceModule):
        def forward(self, batch: Any) -> tuple[Tensor, ...]:
            seen.append(batch["reference"])
            return super().forward(batch)

    strong = ModelSource(pair[0])
    module = Watched(strong, optimizer=lambda p: torch.optim.SGD(p, lr=LR))
    data = PreferenceDataModule(
        DataSource(pairs), strong, None, module.stored_reference, batch_size=8, micro_batch_size=8
    )
    trainer = pl.Trainer(
        accelerator="cpu", strategy=DeepSpeed(stage=1), precision="bf16-true", max_steps=1,
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(module, data)
    numbers = torch.tensor(seen[0], dtype=torch.float64)
    assert not torch.equal(numbers, numbers.bfloat16().double())


def test_what_is_logged_has_the_names_that_people_know(
    pairs: Path, pair: tuple[Path, Path]
) -> None:
    strong, weak = pair
    logger = BranchLogger("runs", "dpo")
    module, trainer = fit(pairs, strong, weak, max_steps=1, logger=logger)
    expected = Expected(strong, weak, Preference())
    (rows, *_) = of_each_step(module)
    sums = dict.fromkeys(("chosen", "rejected", "logps", "right", "fallen", "longer"), 0.0)
    with torch.no_grad():
        for row in rows:
            found = list(expected.scores(row))
            for c, r, rc, rr, lc, lr in found:
                share = 1 / len(found) / len(rows)
                sums["chosen"] += share * 0.1 * (c - rc).item()
                sums["rejected"] += share * 0.1 * (r - rr).item()
                sums["logps"] += share * c.item()
                sums["right"] += share * float(c - rc > r - rr)
                sums["fallen"] += share * float(c < rc)
                sums["longer"] += share * (lc - lr).item()
    folder = Path(str(trainer.log_dir))
    whole = read_events(folder)
    sides = {side: read_events(folder / "dynamics" / side) for side in ("chosen", "rejected")}
    assert sides["chosen"].Scalars("rewards")[0].value == pytest.approx(sums["chosen"], rel=1e-4)
    assert sides["rejected"].Scalars("rewards")[0].value == pytest.approx(
        sums["rejected"], rel=1e-4
    )
    assert sides["chosen"].Scalars("logps")[0].value == pytest.approx(sums["logps"], rel=1e-5)
    known = {"accuracies": "right", "margins": None}
    margin = sums["chosen"] - sums["rejected"]
    for name, key in known.items():
        value = margin if key is None else sums[key]
        assert whole.Scalars(f"rewards/{name}")[0].value == pytest.approx(value, rel=1e-3)
    assert whole.Scalars("displacement")[0].value == pytest.approx(sums["fallen"], abs=1e-6)
    assert whole.Scalars("lengths/difference")[0].value == pytest.approx(sums["longer"], abs=1e-5)


def test_chosen_answers_that_fall_are_told_of_once(
    pairs: Path, pair: tuple[Path, Path], recwarn: pytest.WarningsRecorder
) -> None:
    class Falling(PreferenceModule):
        def forward(self, batch: Any) -> tuple[Tensor, ...]:
            loss, preference, nll, _, reference = super().forward(batch)
            return loss, preference, nll, reference - 2, reference

    strong = ModelSource(pair[0])
    module = Falling(strong)
    data = PreferenceDataModule(
        DataSource(pairs), strong, None, module.stored_reference, batch_size=4, micro_batch_size=4,
        val_fraction=0.2,
    )  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False,
    )  # fmt: skip
    trainer.validate(module, data)
    assert not [one for one in recwarn if "less likely" in str(one.message)]  # nothing has trained
    trainer.fit(module, data)
    told = [str(one.message) for one in recwarn if "less likely" in str(one.message)]
    assert len(told) == 1 and told[0].startswith("100% of the chosen validation answers")


def test_a_changed_reference_is_not_gone_on_with(
    pairs: Path, make_branch: Callable[..., Path], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    reference = make_branch(seed=9)
    fit(pairs, pair[0], reference, max_steps=1, save=tmp_path / "one.ckpt")
    fit(pairs, pair[0], reference, max_steps=2, resume=tmp_path / "one.ckpt")
    weights = load_file(reference / "model.safetensors")
    changed = {name: weight * 1.01 for name, weight in weights.items()}
    save_file(changed, reference / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"model\.weak: the reference .* is not what"):
        fit(pairs, pair[0], reference, max_steps=2, resume=tmp_path / "one.ckpt")


def test_other_pairs_and_another_objective_are_not_gone_on_with(
    pairs: Path, write_rows: Callable[..., Path], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """Sides exchanged have the same lengths, and so the same plan."""
    checkpoint = tmp_path / "one.ckpt"
    fit(pairs, pair[0], max_steps=1, save=checkpoint)
    with pytest.raises(UserError, match=r"trained with form sigmoid, .*, this run has form ipo"):
        fit(pairs, pair[0], resume=checkpoint, objective=Preference("ipo"))
    with pytest.raises(UserError, match=r"beta 0\.1, .*beta 5"):
        fit(pairs, pair[0], resume=checkpoint, objective=Preference(beta=5))
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS]
    write_rows(turned, pairs.name)
    with pytest.raises(UserError, match="is not what the checkpoint was trained on"):
        fit(pairs, pair[0], resume=checkpoint)


@pytest.mark.parametrize("reference", ["stored", "branch"])
def test_at_the_start_nothing_is_preferred_in_16_bits_either(
    reference: Any, pairs: Path, pair: tuple[Path, Path]
) -> None:
    module, _ = fit(pairs, pair[0], max_steps=1, precision="bf16-true", reference=reference)
    assert module._step.loss.item() == pytest.approx(math.log(2), abs=2e-3)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"objective": Preference(beta=0)}, r"model\.objective\.beta: 0 must be above 0"),
        ({"objective": Preference(beta=-0.1)}, r"beta: -0\.1 must be above 0"),
        ({"objective": Preference(beta=math.nan)}, "beta: nan must be above 0"),
        ({"objective": Preference(beta=math.inf)}, "beta: inf must be above 0"),
        ({"objective": Preference(nll=-1)}, r"nll: -1 must be 0 or more"),
        ({"objective": Preference("simpo", margin=-1)}, r"margin: -1 must be 0 or more"),
        ({"objective": Preference(label_smoothing=0.5)}, r"label_smoothing: 0\.5 .* \[0, 0\.5\)"),
        ({"objective": Preference("simpo"), "weak": "x"}, "simpo has no reference"),
        ({"objective": Preference("ipo", margin=2)}, "margin: 2 is of simpo, not ipo"),
        ({"pretrained": False}, "random weights are no reference"),
        ({"pretrained": False, "reference": "branch"}, "random weights are no reference"),
        ({"weak_dtype": "bfloat16"}, r"model\.weak_dtype.*model\.reference to branch"),
    ],
)
def test_settings_that_cannot_be(
    settings: dict[str, Any], fault: str, pair: tuple[Path, Path]
) -> None:
    with pytest.raises(UserError, match=fault):
        PreferenceModule(ModelSource(pair[0]), **settings)


def test_pairs_and_rows_of_instructions_are_not_taken_for_each_other(
    pairs: Path, sums: Path, pair: tuple[Path, Path]
) -> None:
    from conftest import every_sample_once

    strong = ModelSource(pair[0])
    module: Pair = PreferenceModule(strong)
    with pytest.raises(UserError, match="makes a Batch, but"):
        pl.Trainer(accelerator="cpu", logger=False).fit(module, every_sample_once(sums, strong))
    module = WeakDrivenModule(strong, lam=1)
    data = PreferenceDataModule(DataSource(pairs), strong, batch_size=4, micro_batch_size=4)
    with pytest.raises(UserError, match="makes a PreferenceBatch, but"):
        pl.Trainer(accelerator="cpu", logger=False).fit(module, data)


def test_the_card_says_what_was_trained_on_what(pairs: Path, pair: tuple[Path, Path]) -> None:
    module, _ = fit(pairs, *pair, max_steps=1)
    made = module.made()
    assert made["form"] == "sigmoid" and made["beta"] == 0.1
    assert "margin" not in made and PreferenceModule(
        ModelSource(pair[0]), objective=Preference("simpo", margin=2)
    ).settings()["margin"] == 2  # fmt: skip
    data = made["data"]
    assert data["reference"] == str(pair[1].resolve())
    assert data["reference_sha256"] == model_digest(data["reference"])
    assert "prefer" in made["method"] and "preference-training" in made["tags"]
    assert made["data"]["path"] == str(pairs) and json.dumps(made)
