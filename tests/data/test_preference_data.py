"""Preference data through its module: split, plan, batches, resume, control, refusals."""

import json
import random
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from wdl.branches.loading import load_branch
from wdl.branches.sources import model_digest
from wdl.config.paths import DataSource, ModelSource
from wdl.constants import IGNORE_INDEX
from wdl.data.batches import collate, completion_tokens
from wdl.data.loading import RankShare, batch_loader
from wdl.data.preference import PreferenceBatch, PreferenceDataModule
from wdl.data.scoring import sample_logps
from wdl.data.weak_driven import Selection, WeakDrivenDataModule
from wdl.errors import UserError

TEMPLATE = (
    "{% for m in messages %}{{'<|im_start|>'+m.role+'\n'+('<think>\n'+m.reasoning_content+"
    "'\n</think>\n\n' if m.reasoning_content else '')+m.content+'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)


def questions(count: int = 40) -> list[dict]:
    """Questions of different lengths, with one to three right and wrong answers."""
    draw = random.Random(0)
    return [
        {
            "prompt": f"{n} + {n * n}?",
            "chosen": [f"{n + n * n}" + "." * k for k in range(draw.randint(1, 3))],
            "rejected": [f"{n}{k}" * draw.randint(1, 6) for k in range(draw.randint(1, 3))],
        }
        for n in range(1, count + 1)
    ]


@pytest.fixture
def preferences(write_rows: Callable[..., Path]) -> Path:
    return write_rows(questions(), "preferences.jsonl")


def set_up(
    data: Path, strong: Path, stage: str = "fit", devices: int = 1, **settings: Any
) -> PreferenceDataModule:
    sizes = {"batch_size": 8, "micro_batch_size": 2, "val_fraction": 0.2, **settings}
    module = PreferenceDataModule(DataSource(data), ModelSource(strong), **sizes)
    module.trainer = pl.Trainer(
        accelerator="cpu", devices=devices, logger=False, enable_checkpointing=False
    )
    module.setup(stage)
    return module


def share(
    module: PreferenceDataModule, rank: int = 0, world_size: int = 1, step: int = 0
) -> list[PreferenceBatch]:
    """One rank's micro-batches of what is left of an epoch."""
    assert module.plan is not None
    batches = RankShare(module.plan, rank, world_size, lambda: step)
    return list(batch_loader(module.train_samples, batches, module.collate))


def sequences(batch: PreferenceBatch) -> list[list[int]]:
    """The tokens of each sequence of a batch."""
    ids = batch["input_ids"]
    if "segments" in batch:
        return [part.tolist() for part in ids[0].split(_sizes(batch))]
    mask = cast(torch.Tensor, batch["attention_mask"])
    return [row[: int(kept.sum())].tolist() for row, kept in zip(ids, mask, strict=True)]


def _sizes(batch: PreferenceBatch) -> list[int]:
    return batch["segments"]["cu_seq_lens_q"].diff().tolist()


def decoded(module: PreferenceDataModule, tokens: list[int]) -> tuple[str, str]:
    """Prompt and answer."""
    text = str(module.tokenizer.decode(tokens))
    _, prompt, answer = text.removesuffix("<|im_end|>").split("<|im_start|>")
    return prompt.partition("\n")[2].split("<|im_end|>")[0], answer.partition("\n")[2]


PACKED = {"micro_batch_size": 1, "max_length": 80, "max_tokens": 400}
LAYOUTS: list[dict[str, Any]] = [{}, {"micro_batch_size": 8}, PACKED]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_is_questions_with_all_their_pairs(
    layout: dict[str, Any], preferences: Path, architecture: Path
) -> None:
    module = set_up(preferences, architecture, **layout)
    rows, seen = questions(), []
    for batch in share(module):
        names, tokens = batch["sample_ids"].tolist(), sequences(batch)
        seen += names
        if not names:
            continue
        expected = [
            (rows[n]["prompt"], *pair)
            for n in names
            for pair in product(rows[n]["chosen"], rows[n]["rejected"])
        ]
        found = []
        for chosen, rejected in zip(batch["chosen"], batch["rejected"], strict=True):
            prompt, right = decoded(module, tokens[chosen])
            other, wrong = decoded(module, tokens[rejected])
            assert prompt == other
            found.append((prompt, right, wrong))
        assert sorted(found) == sorted(expected)
        assert sum(batch["weights"]) == pytest.approx(len(names))
        assert {type(w) for w in batch["weights"]} == {float}
        weight = {row["prompt"]: 1 / len(row["chosen"]) / len(row["rejected"]) for row in rows}
        assert batch["weights"] == pytest.approx([weight[prompt] for prompt, _, _ in found])
        assert batch["completions"] == completion_tokens(batch).tolist()
        assert "reference" not in batch
    assert sorted(seen) == sorted(module.train_samples["idx"][:])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_denominator_counts_questions(
    layout: dict[str, Any], preferences: Path, architecture: Path
) -> None:
    module = set_up(preferences, architecture, **layout)
    assert module.plan is not None
    for step in module.plan.epoch(1):
        assert {micro.denominator for micro in step} == {sum(len(m.samples) for m in step)}
    validated = list(module.val_dataloader())
    for batch in validated:
        assert batch["denominator"] == len(batch["sample_ids"])
    idx = [n for batch in validated for n in batch["sample_ids"].tolist()]
    assert sorted(idx) == sorted(module.val_samples["idx"][:])
    assert set(idx).isdisjoint(module.train_samples["idx"][:])


def test_a_question_in_many_rows_stands_on_one_side(
    write_rows: Callable[..., Path], architecture: Path
) -> None:
    rows = [{"prompt": f"{n % 25}?", "chosen": f"{n}", "rejected": "no"} for n in range(100)]
    module = set_up(write_rows(rows), architecture, val_fraction=0.4)
    sides = [
        {decoded(module, tokens)[0] for batch in loader for tokens in sequences(batch)}
        for loader in (share(module), module.val_dataloader())
    ]
    assert len(sides[0]) + len(sides[1]) == 25 and min(map(len, sides)) > 4
    assert not sides[0] & sides[1]
    assert module.summary.samples == len(sides[0])
    assert module.summary.pairs == 4 * len(sides[0])


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_an_empty_micro_batch_is_one_token_without_pairs(
    layout: dict[str, Any], preferences: Path, architecture: Path
) -> None:
    batch = set_up(preferences, architecture, **layout).collate([], 5)
    assert batch["input_ids"].shape == (1, 1) and batch["denominator"] == 5
    assert (batch["labels"] == IGNORE_INDEX).all() and not len(batch["sample_ids"])
    assert batch["chosen"] == batch["rejected"] == batch["weights"] == batch["completions"] == []


@pytest.mark.parametrize("layout", LAYOUTS[::2])
def test_two_ranks_share_the_steps_of_one(
    layout: dict[str, Any], preferences: Path, architecture: Path
) -> None:
    module = set_up(preferences, architecture, **layout)
    assert module.plan is not None
    alone = share(module)
    ranks = [share(module, rank, 2) for rank in (0, 1)]
    together = [batch for pair in zip(*ranks, strict=True) for batch in pair]
    assert [repr(batch) for batch in together] == [repr(batch) for batch in alone]
    done = module.plan.accumulation(1)
    assert [repr(batch) for batch in share(module, step=1)] == [repr(b) for b in alone[done:]]


def test_every_rank_validates_a_share(
    preferences: Path, architecture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = set_up(preferences, architecture, "validate", devices=2)
    seen: list[int] = []
    lengths = set()
    for rank in (0, 1):
        monkeypatch.setattr(type(module.trainer), "global_rank", rank)
        batches = list(module.val_dataloader())
        lengths.add(len(batches))
        seen += [n for batch in batches for n in batch["sample_ids"].tolist()]
    assert len(lengths) == 1
    assert sorted(seen) == sorted(module.val_samples["idx"][:])


def test_what_is_said_and_kept_of_the_data(
    preferences: Path, architecture: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    module = set_up(preferences, architecture, max_pairs=2)
    made, kept = module.made(), module.train_samples
    pairs, answers = (sum(map(len, kept[name])) for name in ("chosen", "sequences"))
    assert (made["questions"], made["pairs"], made["sequences"]) == (len(kept), pairs, answers)
    assert made["max_pairs"] == 2 and made["tokens"] == sum(kept["length"])
    assert (
        f"selected {len(kept)} training questions with {pairs} pairs of {answers} answers "
        f"({answers / pairs:.2f} sequences per pair), {made['tokens']} tokens in {made['steps']} "
        "steps"
    ) in caplog.text


def test_runs_agree_in_their_pairs(
    preferences: Path, architecture: Path, write_rows: Callable[..., Path]
) -> None:
    rows = [{"prompt": f"{n}", "chosen": ["1", "2"], "rejected": ["3", "4"]} for n in range(20)]
    data = write_rows(rows)
    three, four, again = (
        set_up(data, architecture, max_pairs=count).agreement() for count in (3, 4, 3)
    )
    assert three == again and three["data"] == four["data"]
    assert three["plan"] != four["plan"]  # although the same sequences run through the model
    validation = PreferenceDataModule(DataSource(data), ModelSource(architecture))
    assert validation.agreement()["plan"] is None


@pytest.mark.parametrize("system_prompt", [None, "paper"])
def test_the_control_trains_on_the_chosen_answers(
    system_prompt: str | None,
    architecture: Path,
    write_rows: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = shutil.copytree(architecture, tmp_path / "thinker")
    (model / "chat_template.jinja").write_text(TEMPLATE)
    before = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = questions()
    for n in range(20):
        asked = [*before, {"role": "user", "content": f"{n}?"}]
        answer = {"role": "assistant", "content": f"{n}", "reasoning_content": f"So {n}. "}
        wrong = {"role": "assistant", "content": f"<think>\nNo.\n</think>\n\n{n}"}
        rows.append({"chosen": [*asked, answer], "rejected": [*asked, wrong]})
    module = set_up(write_rows(rows), model, system_prompt=system_prompt, max_pairs=2)
    done = module.summary.steps + 1  # trainer.max_steps may end a run within an epoch
    monkeypatch.setattr(type(module.trainer), "global_step", done)
    options = module.control()
    flags = dict(zip(options[::2], options[1::2], strict=True))
    assert flags["--data"] == "wdl.data.weak_driven.WeakDrivenDataModule"
    tokens = module.summary.tokens * done / module.summary.steps
    assert flags["--data.selection.tokens"] == str(round(tokens))
    assert flags["--trainer.max_epochs"] == "1" and flags["--trainer.max_steps"] == "-1"
    file = flags["--data.path"]
    control = WeakDrivenDataModule(
        DataSource(file),
        ModelSource(model),
        selection=Selection("uniform", draw="without_replacement"),
        system_prompt=system_prompt,
        val_fraction=module.val_fraction,
    )
    control.trainer = module.trainer
    control.setup("validate")
    for answers, of_questions in (
        (control.train_samples, module.train_samples),
        (control.val_samples, module.val_samples),
    ):
        expected = sorted(
            {
                tuple(module.corpus.sequences[question["sequences"][chosen]]["input_ids"])
                for question in of_questions
                for chosen in question["chosen"]
            }
        )
        assert expected and sorted(map(tuple, answers["input_ids"])) == expected
    thoughts = [json.loads(line)["messages"][-1] for line in Path(file).read_text().splitlines()]
    assert sum("reasoning_content" in answer for answer in thoughts) > 5
    written = Path(file).stat().st_mtime_ns
    assert module.control() == options and Path(file).stat().st_mtime_ns == written


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_the_reference_of_each_sequence_is_in_the_batch(
    stage: str, preferences: Path, pair: tuple[Path, Path]
) -> None:
    strong, weak = map(ModelSource, pair)
    module = PreferenceDataModule(
        DataSource(preferences), strong, weak, weak, val_fraction=0.2, batch_size=8
    )
    module.check_inputs()
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module.setup(stage)
    model = load_branch(weak).eval()
    expected = {
        tuple(row["input_ids"]): sample_logps(model, dict(collate([row], [0], 0, 1)))[0]
        for row in module.corpus.sequences
    }
    for batch in share(module) if stage == "fit" else module.val_dataloader():
        under = [expected[tuple(t)] for t in sequences(batch)] if batch["chosen"] else []
        assert batch["reference"] == pytest.approx(under, rel=1e-5)
    agreed = module.agreement()
    assert (agreed["reference"], agreed["reference_sha256"]) == (weak, model_digest(weak))


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"too_long": "cut"}, "data.too_long: .* none is cut"),
        ({"max_pairs": 0}, "data.max_pairs: 0 must be at least 1"),
        ({"batch_size": 3, "micro_batch_size": 2}, "data.batch_size: 3"),
        ({"max_tokens": 10}, "data.max_tokens"),
    ],
)
def test_settings_that_are_refused(
    settings: dict[str, Any], fault: str, architecture: Path
) -> None:
    with pytest.raises(UserError, match=fault):
        PreferenceDataModule(DataSource("x.jsonl"), ModelSource(architecture), **settings)


def test_input_that_is_refused(
    preferences: Path, sums: Path, make_branch: Callable[..., Path], pair: tuple[Path, Path]
) -> None:
    strong, other = ModelSource(pair[0]), ModelSource(make_branch(vocab_size=300))
    for weak, reference in ((other, None), (None, other)):
        with pytest.raises(UserError, match="300"):
            PreferenceDataModule(DataSource(preferences), strong, weak, reference).check_inputs()
    with pytest.raises(UserError, match=r"sums.jsonl:1: the row has no chosen and rejected"):
        PreferenceDataModule(DataSource(sums), strong).check_inputs()
    with pytest.raises(UserError, match="nowhere"):
        reference = ModelSource("nowhere/")
        PreferenceDataModule(DataSource(preferences), strong, None, reference).check_inputs()


def test_no_question_for_training(
    preferences: Path, architecture: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(UserError, match="no question is left to train on"):
        set_up(preferences, architecture, val_fraction=1 - 1e-9)
