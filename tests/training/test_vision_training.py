"""Training on pictures under the real strategy, against autograd of the written formulas."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, PreTrainedModel

from wdl.branches.loading import check_same_vocabulary
from wdl.branches.lora import Lora
from wdl.branches.template import render
from wdl.branches.vision import Vision, open_image, with_parts
from wdl.branches.whole_weights import gather_weights
from wdl.config.paths import DataSource, ModelSource
from wdl.data.preference import PreferenceDataModule
from wdl.data.weak_driven import Selection, WeakDrivenDataModule
from wdl.errors import UserError
from wdl.losses.preference import Preference
from wdl.tiny.model import write_tiny_architecture
from wdl.tiny.vision import Kind, write_tiny_vision
from wdl.training.deepspeed import DeepSpeed
from wdl.training.export import export_checkpoint
from wdl.training.pair import Pair
from wdl.training.preference import PreferenceModule
from wdl.training.weak_driven import WeakDrivenModule

LR = 0.05
KINDS: tuple[Kind, ...] = ("qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny vision-language models with random weights."""
    made: dict[str, Path] = {}
    for kind in KINDS:
        folder = made[kind] = tmp_path_factory.mktemp(kind)
        write_tiny_vision(folder, kind)
        torch.manual_seed(0)
        config = Vision(str(folder)).config
        config.text_config.initializer_range = 0.1  # or pictures would hardly show
        AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    return made


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Pictures of many sizes, of many colours."""
    rng = random.Random(0)
    files = []
    for n in range(24):
        size = rng.randrange(30, 120), rng.randrange(30, 120)
        small = Image.frombytes("RGB", (4, 4), rng.randbytes(48))
        files.append(tmp_path / f"{n}.png")
        small.resize(size).save(files[-1])
    return files


@pytest.fixture
def rows(pictures: list[Path], write_rows: Callable[..., Path]) -> Path:
    """Rows with none, one and two pictures."""
    texts = [
        {
            "messages": [
                {"role": "user", "content": "<image>" * (n % 3) + f"What is {n}?"},
                {"role": "assistant", "content": f"<answer>{'yes' * (1 + n % 4)}</answer>"},
            ],
            "images": [pictures[2 * n % 24 + k].name for k in range(n % 3)],
        }
        for n in range(20)
    ]
    return write_rows(texts, "rows.jsonl")


@pytest.fixture
def preferences(pictures: list[Path], write_rows: Callable[..., Path]) -> Path:
    texts = [
        {
            "prompt": "<image><image>Which?",
            "chosen": [f"The {n}th." + "!" * k for k in range(1 + n % 2)],
            "rejected": ["None of both."],
            "images": [pictures[n].name, pictures[n + 12].name],
        }
        for n in range(12)
    ]
    return write_rows(texts, "pairs.jsonl")


def sgd(parameters: Any) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=LR)


class Save(pl.Callback):
    """A checkpoint of the end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.path)


def fit(
    module: Pair, datamodule: Any, stage: Any = 2, save: Path | None = None, steps: int = 2
) -> pl.Trainer:
    trainer = pl.Trainer(
        strategy=DeepSpeed(stage=stage),
        accelerator="cpu",
        max_steps=steps,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[] if save is None else [Save(save)],
    )
    trainer.fit(module, datamodule)
    return trainer


def tuned(
    rows: Path,
    strong: Path,
    stage: Any = 2,
    packed: bool = False,
    save: Path | None = None,
    **settings: Any,
) -> tuple[WeakDrivenModule, pl.Trainer]:
    """Plain fine-tuning: two steps of eight samples."""
    source = ModelSource(strong)
    module = WeakDrivenModule(
        source, None, lam=1.0, optimizer=sgd, schedule="constant", warmup=0, **settings
    )
    sizes = {"micro_batch_size": 1, "max_tokens": 400, "max_length": 400, "batch_size": 2}
    datamodule = WeakDrivenDataModule(
        DataSource(rows),
        source,
        None,
        Selection(weights="uniform", draw="without_replacement"),
        val_fraction=0.0,
        **(sizes if packed else {"batch_size": 8, "micro_batch_size": 4}),
    )
    return module, fit(module, datamodule, stage, save)


def prefer(preferences: Path, strong: Path, packed: bool = False) -> PreferenceModule:
    """Two steps of preference training, compared with what it begins with."""
    source = ModelSource(strong)
    module = PreferenceModule(
        source,
        None,
        objective=Preference(beta=0.5),
        optimizer=sgd,
        schedule="constant",
        warmup=0,
    )
    sizes = {"micro_batch_size": 1, "max_tokens": 400, "max_length": 400, "batch_size": 3}
    datamodule = PreferenceDataModule(
        DataSource(preferences),
        source,
        None,
        module.stored_reference,
        val_fraction=0.0,
        **(sizes if packed else {"batch_size": 6, "micro_batch_size": 3}),
    )
    fit(module, datamodule)
    return module


class ByHand:
    """One conversation at a time, with all that the real processor makes of it, in float64."""

    def __init__(self, folder: Path) -> None:
        self.vision = Vision(str(folder))
        self.model = AutoModelForImageTextToText.from_pretrained(folder).double()
        self.end = self.vision.tokenizer.convert_tokens_to_ids("<|im_end|>")
        for name, weight in self.model.named_parameters():
            weight.requires_grad_("visual" not in name)

    def logps(self, model: PreTrainedModel, question: str, files: list[Path], answer: str) -> Any:
        """Log-probabilities of the answer's tokens."""
        prompt = render(self.vision.tokenizer, with_parts([{"role": "user", "content": question}]))
        images = [open_image(file) for file in files]
        made = dict(
            self.vision.processor(
                text=[prompt],
                images=images or None,
                return_tensors="pt",
                add_special_tokens=False,
                return_mm_token_type_ids=True,
            )
        )
        tail = [*self.vision.tokenizer(answer, add_special_tokens=False).input_ids, self.end]
        start = made["input_ids"].shape[1]
        ids = torch.cat([made["input_ids"], torch.tensor([tail])], dim=1)
        seen = {}
        if images:
            kinds = torch.cat([made["mm_token_type_ids"], torch.zeros(1, len(tail)).long()], dim=1)
            seen = {
                "pixel_values": made["pixel_values"].double(),
                "image_grid_thw": made["image_grid_thw"],
                "mm_token_type_ids": kinds,
            }
        logits = model(input_ids=ids, **seen).logits[0, start - 1 : -1]
        return logits.log_softmax(-1).gather(1, torch.tensor(tail)[:, None])

    def step(self, loss: Any) -> None:
        self.model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for weight in self.model.parameters():
                if weight.grad is not None:
                    weight.sub_(LR * weight.grad)

    def assert_is(self, model: PreTrainedModel) -> None:
        ours = dict(model.named_parameters())
        for name, weight in self.model.named_parameters():
            torch.testing.assert_close(ours[name].double(), weight, rtol=1e-4, atol=2e-6, msg=name)


def steps_of(trainer: pl.Trainer) -> list[list[int]]:
    """The idx of the samples of each step."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    return [
        [data.train_samples[i]["idx"] for batch in step for i in batch.samples]
        for _, step in zip(range(2), data.plan.epoch(0, 0), strict=False)
    ]


def sft_by_hand(rows: Path, folder: Path, trainer: pl.Trainer) -> ByHand:
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    expected = ByHand(folder)
    for step in steps_of(trainer):
        logps = []
        for idx in step:
            question, answer = (turn["content"] for turn in lines[idx]["messages"])
            files = [rows.parent / name for name in lines[idx]["images"]]
            logps.append(expected.logps(expected.model, question, files, answer))
        expected.step(-torch.cat(logps).mean())
    return expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("packed", "stage"), [(False, 2), (True, 1), (False, 3)])
def test_two_steps_equal_autograd(
    kind: Kind, packed: bool, stage: int, models: dict[str, Path], rows: Path
) -> None:
    module, trainer = tuned(rows, models[kind], stage, packed)
    if stage == 3:
        whole = gather_weights(module.strong)
        expected = sft_by_hand(rows, models[kind], trainer)
        for name, weight in expected.model.named_parameters():
            torch.testing.assert_close(whole[name].double(), weight, rtol=1e-4, atol=2e-6, msg=name)
        return
    sft_by_hand(rows, models[kind], trainer).assert_is(module.strong)


@pytest.mark.parametrize("kind", KINDS)
def test_token_types_matter(
    kind: Kind, models: dict[str, Path], rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Vision, "inputs", lambda self, tokens, images: self.pixels(images))
    with pytest.raises((AssertionError, UserError)):  # of this test, or of the probe
        module, trainer = tuned(rows, models[kind])
        sft_by_hand(rows, models[kind], trainer).assert_is(module.strong)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [False, True])
def test_preferences_equal_autograd(
    kind: Kind, packed: bool, models: dict[str, Path], preferences: Path
) -> None:
    module = prefer(preferences, models[kind], packed)
    trainer = module.trainer
    lines = [json.loads(line) for line in preferences.read_text().splitlines()]
    expected, reference = ByHand(models[kind]), ByHand(models[kind])
    for step in steps_of(trainer):
        losses = []
        for idx in step:
            row = lines[idx]
            files = [preferences.parent / name for name in row["images"]]

            def score(answer: str, files: list[Path] = files) -> Any:
                sums = [
                    one.logps(one.model, "<image><image>Which?", files, answer).sum()
                    for one in (expected, reference)
                ]
                return sums[0] - sums[1].detach()

            pairs = [(c, r) for c in row["chosen"] for r in row["rejected"]]
            margins = [score(c) - score(r) for c, r in pairs]
            losses.append(
                -torch.stack([torch.nn.functional.logsigmoid(0.5 * m) for m in margins]).mean()
            )
        expected.step(torch.stack(losses).mean())
    expected.assert_is(module.strong)


@pytest.mark.parametrize("stage", [1, 3])
def test_an_export_from_a_checkpoint_has_the_tower_too(
    stage: int, models: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    strong, save = models["qwen3_vl"], tmp_path / "last.ckpt"
    tuned(rows, strong, stage, save=save)
    export_checkpoint(save, str(tmp_path / "out"))  # type: ignore[arg-type]
    before, after = (
        AutoModelForImageTextToText.from_pretrained(folder).state_dict()
        for folder in (strong, tmp_path / "out")
    )
    same = {name for name, weight in before.items() if torch.equal(weight, after[name])}
    assert same == {name for name in before if "visual" in name}
    assert Vision(str(tmp_path / "out")).key() == Vision(str(strong)).key()


def test_stored_scores_are_taken_again(models: dict[str, Path], preferences: Path) -> None:
    first, again = (prefer(preferences, models["qwen2_5_vl"]) for _ in range(2))
    for name, weight in first.strong.named_parameters():
        assert torch.equal(weight, again.strong.get_parameter(name))
    assert len(list(Path("runs/cache/reference").iterdir())) == 1


def test_the_tower_trains_if_asked(models: dict[str, Path], rows: Path) -> None:
    module, _ = tuned(rows, models["qwen2_5_vl"], train_vision=True)
    before = AutoModelForImageTextToText.from_pretrained(models["qwen2_5_vl"])
    changed = {
        name
        for (name, weight), old in zip(
            module.strong.named_parameters(), before.parameters(), strict=True
        )
        if not torch.equal(weight, old)
    }
    assert any("visual" in name for name in changed)


def test_an_adapter_leaves_the_tower_alone(models: dict[str, Path], rows: Path) -> None:
    module, _ = tuned(rows, models["qwen2_5_vl"], lora=Lora(rank=2))
    adapted = {name for name, weight in module.strong.named_parameters() if weight.requires_grad}
    assert adapted
    assert not any("visual" in name for name in adapted)
    with pytest.raises(UserError, match=r"model\.train_vision: model\.lora leaves"):
        tuned(rows, models["qwen2_5_vl"], lora=Lora(rank=2), train_vision=True)


@pytest.mark.parametrize("weak", ["text", "qwen3_vl"])
def test_branches_must_see_alike(weak: str, models: dict[str, Path], tmp_path: Path) -> None:
    write_tiny_architecture(tmp_path / "text")
    source = {"text": tmp_path / "text", **models}[weak]
    with pytest.raises(UserError, match=r"^model\.weak: .* does not take pictures as "):
        check_same_vocabulary(str(models["qwen2_5_vl"]), str(source))


def test_a_tower_that_begins_at_random_must_train(models: dict[str, Path], rows: Path) -> None:
    with pytest.raises(UserError, match=r"^model\.train_vision: a vision tower that begins"):
        tuned(rows, models["qwen2_5_vl"], pretrained=False)
