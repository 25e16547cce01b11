"""Encoded samples: rows checked and tokenised once, then read from Arrow files on disk.

Nothing here holds more than a batch of rows in memory. Each cached file is named after everything
that it depends on, and is either complete or not there.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value
from datasets import disable_progress_bars as disable_datasets_bars
from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from wdl.branches.loading import load_tokenizer
from wdl.data.encoding import encode_batch, end_of_turn, with_system_prompt
from wdl.data.records import OnBadRow, Record, RecordReader
from wdl.data.rows import HubData, data_parts
from wdl.errors import UserError
from wdl.system.digests import files_digest, value_digest
from wdl.system.files import new_folder, write_json

TooLong = Literal["drop", "cut"]

ROWS_PER_WRITE = 500
ROWS_PER_WORKER = 20_000
# What a completion is; raised in the keys of caches and scores whenever that changes.
MASK = "answer and end of turn, 1"

_RECORDS = pa.schema(
    [
        ("idx", pa.int64()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("completion", pa.string()),
    ]
)
_SAMPLES = Features(
    {
        "idx": Value("int64"),
        "input_ids": List(Value("int32")),
        "prompt_length": Value("int32"),
        "length": Value("int32"),
        "prompt_hash": Value("float64"),
    }
)
logger = logging.getLogger(__name__)


class Corpus:
    """Instruction data, encoded for a tokenizer.

    Args:
        path: A data file, a folder of them, or a data set of the hub.
        tokenizer: Model folder or hub name that the tokenizer comes from.
        cache: Folder for what is read and encoded.
        system_prompt: Text of a system message, ``paper`` for the paper's, or None for none.
        max_length: Longest sample in tokens.
        too_long: Whether longer samples are dropped or cut at the end.
        on_bad_row: Whether a faulty row is an error or skipped.
    """

    def __init__(
        self,
        path: str,
        tokenizer: str,
        cache: Path,
        system_prompt: str | None = None,
        max_length: int = 4096,
        too_long: TooLong = "drop",
        on_bad_row: OnBadRow = "error",
    ) -> None:
        self.path = path
        self.cache = cache
        self.system_prompt = system_prompt
        self.max_length = max_length
        self.too_long = too_long
        self.on_bad_row = on_bad_row
        self._tokenizer_source = tokenizer

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What encodes the data."""
        return load_tokenizer(self._tokenizer_source)

    @cached_property
    def end_token(self) -> int:
        """What ends each answer."""
        return end_of_turn(self.tokenizer)

    @property
    def pad_token(self) -> int:
        """What fills up padded batches; masked, so any token will do."""
        return self.tokenizer.pad_token_id or 0

    @cached_property
    def records(self) -> Dataset:
        """The checked rows with columns idx, messages and completion.

        Raises:
            UserError: One line for each faulty row.
        """
        folder = self.cache / f"records-{value_digest([self.data_digest, self.on_bad_row])[:32]}"
        self.cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                reader = RecordReader(data_parts(self.path), self.on_bad_row)
                with new_folder(folder) as partial_folder:
                    _write_records(reader, partial_folder / "rows.arrow")
                    left_out = {"total": reader.left_out.total, "first": list(reader.left_out)}
                    write_json(partial_folder / "left_out.json", left_out)
        _warn_of_rows(json.loads((folder / "left_out.json").read_text()))
        return Dataset.from_file(str(folder / "rows.arrow"))

    @cached_property
    def samples(self) -> Dataset:
        """Columns idx, input_ids, prompt_length, length and prompt_hash (in [0, 1))."""
        disable_datasets_bars()  # they would break into the trainer's
        records, name = self.records, value_digest(self.encoding_key())[:32]
        encode = partial(
            _encode_records,
            tokenizer=self.tokenizer,
            end_token=self.end_token,
            system_prompt=self.system_prompt,
        )
        file = self.cache / f"encoded-{name}.arrow"
        with FileLock(f"{file}.lock"):
            samples = records.map(
                encode,
                batched=True,
                features=_SAMPLES,
                remove_columns=records.column_names,
                cache_file_name=str(file),
                new_fingerprint=name,
                num_proc=_workers(len(records)),
            )
            return self._limit_length(samples, name)

    def encoding_key(self) -> dict[str, Any]:
        """What the tokens of the samples depend on."""
        return {
            "data": self.data_digest,
            "on_bad_row": self.on_bad_row,
            "tokenizer": value_digest(self.tokenizer.backend_tokenizer.to_str()),
            "template": str(self.tokenizer.chat_template),
            "system_prompt": self.system_prompt,
            "mask": MASK,
        }

    def key(self) -> dict[str, Any]:
        """What the samples depend on."""
        return {
            **self.encoding_key(),
            "max_length": self.max_length,
            "too_long": self.too_long,
        }

    @cached_property
    def data_digest(self) -> str:
        """SHA-256 of the files."""
        parts = data_parts(self.path)
        files = files_digest(part for part in parts if isinstance(part, Path))
        return value_digest([files, *(p.digest() for p in parts if isinstance(p, HubData))])

    def _limit_length(self, samples: Dataset, name: str) -> Dataset:
        lengths = column(samples, "length")
        fits = lengths <= self.max_length
        if fits.all():
            return samples
        rank_zero_info(
            f"{(~fits).sum()} of {len(fits)} samples are longer than {self.max_length} tokens "
            f"({'left out' if self.too_long == 'drop' else 'cut'}, data.too_long)"
        )
        if self.too_long == "drop":
            return samples.select(np.flatnonzero(fits))
        answered = np.flatnonzero(column(samples, "prompt_length") < self.max_length)
        return samples.map(
            partial(_cut, max_length=self.max_length),
            cache_file_name=str(self.cache / f"encoded-{name}-{self.max_length}.arrow"),
            new_fingerprint=f"{name}{self.max_length}",
            num_proc=_workers(len(samples)),
        ).select(answered)


def column(samples: Dataset, name: str) -> NDArray[Any]:
    """A column of numbers, without a Python object for each."""
    return samples.with_format("numpy", columns=[name])[:][name]


def _write_records(records: Iterable[Record], file: Path) -> None:
    rows = iter(records)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, _RECORDS) as writer:
        for batch in iter(lambda: list(islice(rows, ROWS_PER_WRITE)), []):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, _RECORDS))


@rank_zero_only
def _warn_of_rows(left_out: dict[str, Any]) -> None:
    if left_out["total"]:
        logger.warning("%d rows are left out:", left_out["total"])
        for line in UserError(*left_out["first"], total=left_out["total"]).lines():
            logger.warning("  %s", line)


def _workers(rows: int) -> int | None:
    workers = min(os.cpu_count() or 1, 1 + rows // ROWS_PER_WORKER)
    return workers if workers > 1 else None


def _encode_records(
    records: dict[str, list[Any]],
    tokenizer: PreTrainedTokenizerBase,
    end_token: int,
    system_prompt: str | None,
) -> dict[str, list[Any]]:
    conversations = [
        with_system_prompt(messages, system_prompt) for messages in records["messages"]
    ]
    try:
        encoded = encode_batch(tokenizer, conversations, records["completion"], end_token)
    except jinja2.TemplateError as error:
        first, last = records["idx"][0], records["idx"][-1]
        raise UserError(
            f"{tokenizer.name_or_path}: the chat template refuses a conversation between idx "
            f"{first} and {last} ({error}); mend that row, or the template"
        ) from None
    prompts = (sample["input_ids"][: sample["prompt_length"]] for sample in encoded)
    return {
        "idx": records["idx"],
        "input_ids": [sample["input_ids"] for sample in encoded],
        "prompt_length": [sample["prompt_length"] for sample in encoded],
        "length": [len(sample["input_ids"]) for sample in encoded],
        "prompt_hash": [_hash(prompt) for prompt in prompts],
    }


def _hash(tokens: list[int]) -> float:
    """A number in [0, 1) that depends on ``tokens`` alone."""
    return int(hashlib.sha256(str(tokens).encode()).hexdigest()[:12], 16) / 16**12


def _cut(sample: dict[str, Any], max_length: int) -> dict[str, Any]:
    tokens = sample["input_ids"][:max_length]
    return {"input_ids": tokens, "length": len(tokens)}
