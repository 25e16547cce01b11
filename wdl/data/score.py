"""``wdl score``: the entropy of every sample under a model, as a file.

    wdl score --model runs/sft/latest/strong --data train.jsonl --out entropy_0.jsonl

On several devices, each process scores a share: ``torchrun --nproc-per-node 8 -m wdl score ...``.
A killed run goes on where it stopped when the same command is given again.
"""

import os
from pathlib import Path

from wdl.config.paths import DataSource, InputPath, ModelSource
from wdl.data.records import OnBadRow, TooLong
from wdl.data.score_table import ScoreTable
from wdl.errors import UserError
from wdl.system.outcome import leave_outcome


def score(
    model: ModelSource,
    data: DataSource,
    out: str,
    key: str = "entropy_0",
    add_to: InputPath | None = None,
    system_prompt: str | None = None,
    max_length: int = 4096,
    too_long: TooLong = "drop",
    on_bad_row: OnBadRow = "error",
    cache: str = "runs/cache",
) -> None:
    """Mean token entropy of each answer, in nats: {"idx": 0, "entropy_0": 2.5}.

    Args:
        model: A Hugging Face folder or a name on the model hub.
        data: Instruction data, as in wdl fit --data.path.
        out: File to write.
        key: Name of the scores in it.
        add_to: A file of earlier scores, whose fields are written beside the new ones.
        system_prompt: As in wdl fit --data.system_prompt.
        max_length: Longest sample in tokens.
        too_long: Whether longer samples are dropped or cut.
        on_bad_row: Whether a faulty row stops the run or is left out with a warning.
        cache: Folder for encoded data.
    """
    import torch
    from lightning.pytorch.strategies import SingleDeviceStrategy

    from wdl.branches.loading import load_branch
    from wdl.branches.sources import check_source, model_digest
    from wdl.data.corpus import Corpus, column
    from wdl.data.score_store import ScoreStore
    from wdl.data.scoring import ENTROPY, scoring_dtype

    check_source(model, "--model")
    others = None if add_to is None else ScoreTable.read(Path(add_to))
    if others is not None and key in others.fields:
        raise UserError(f"--key {key}: {add_to} has this field already; choose another name")
    corpus = Corpus(data, model, Path(cache), system_prompt, max_length, too_long, on_bad_row)
    samples = corpus.samples
    if not len(samples):
        raise UserError(f"--data: {data} holds no sample that is short enough; see --max_length")
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    dtype = scoring_dtype(device)
    inputs = {**corpus.key(), "branch": model_digest(model), "dtype": str(dtype)}
    store = ScoreStore(Path(out), inputs, ENTROPY._replace(field=key))
    if store.file.is_file():
        if rank == 0:
            print(f"{out}: scored already")
    elif others is not None:
        others.find(column(samples, "idx"), missing="error")
    table = store.complete(
        lambda: load_branch(model, dtype, device=device),
        samples,
        corpus.collate,
        SingleDeviceStrategy(device),  # each process on its own: none waits for another
        rank,
        world_size,
        others,
    )
    if table is not None:
        print(f"{len(samples)} entropies: {out}")
        leave_outcome({"samples": len(samples)})
