"""Encoded samples: rows checked and tokenised once, then read from Arrow files on disk.

Nothing here holds more than a batch of rows in memory. Each cached file is named after everything
that it depends on, and is either complete or not there.
"""

import json
import os
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from tqdm import tqdm

from wdl.branches.sources import load_config, load_tokenizer
from wdl.branches.template import PROBE, QUESTION, probe, render
from wdl.branches.vision import ImageLimits, Vision, find_vision
from wdl.data.batches import Batch, collate, collate_pack, with_pictures
from wdl.data.encoding import encode_records, with_system_prompt
from wdl.data.records import OnBadRow, RecordReader, TooLong
from wdl.data.rows import Part, data_parts, warn_of_rows
from wdl.data.schemas import Record
from wdl.errors import UserError
from wdl.system.digests import files_digest, value_digest
from wdl.system.files import new_folder, write_json
from wdl.system.types import Dataset, PreTrainedTokenizerBase

ROWS_PER_WRITE = 500
ROWS_PER_WORKER = 20_000
# What a completion is; raised in the keys of caches and scores whenever that changes.
MASK = "answer and end of turn, 2"
# What a sample is held out by; raised likewise.
SPLIT = "prompt without data.system_prompt"

RECORDS = pa.schema(
    [
        ("place", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("completion", pa.string()),
        ("thought", pa.string()),
        ("images", pa.list_(pa.string())),
    ]
)


class Corpus:
    """Instruction data, encoded for a tokenizer.

    Data of another kind are a subclass that says what a row is and what is kept of it.

    Args:
        path: A data file, a folder of them, or a data set of the hub.
        tokenizer: Model folder or hub name that the tokenizer comes from.
        cache: Folder for what is read and encoded.
        system_prompt: Text of a system message, ``paper`` for the paper's, or None for none.
        max_length: Longest sample in tokens.
        too_long: Whether longer samples are dropped or cut at the end.
        on_bad_row: Whether a faulty row is an error or skipped.
        images: Sizes of pictures.
    """

    unit = "rows"  # what is encoded one by one
    records_schema: ClassVar[pa.Schema] = RECORDS

    def __init__(
        self,
        path: str,
        tokenizer: str,
        cache: Path,
        system_prompt: str | None = None,
        max_length: int = 4096,
        too_long: TooLong = "drop",
        on_bad_row: OnBadRow = "error",
        images: ImageLimits = ImageLimits(),  # noqa: B008 (frozen)
    ) -> None:
        self.path = path
        self.images = images
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
    def vision(self) -> Vision | None:
        """What makes tokens and pixels of pictures, if the model takes any."""
        return find_vision(self._tokenizer_source, self.images)

    @cached_property
    def vocabulary(self) -> int:
        """Rows of the model's output head, which every token must have one of."""
        return load_config(self._tokenizer_source).get_text_config().vocab_size

    @cached_property
    def end_token(self) -> int:
        """What ends each answer; found by trying out tokenizer and chat template."""
        template = probe(self.tokenizer, self.vocabulary)
        if self.system_prompt is not None:
            render(self.tokenizer, with_system_prompt([QUESTION], self.system_prompt))
        return template.end_token

    def collate(
        self, samples: Sequence[Any], idx: Sequence[int], denominator: int, packed: bool = False
    ) -> Batch:
        """``samples`` in a batch that goes by the names ``idx``."""
        # masked; a tokenizer's own pad token may have no row
        form = partial(collate_pack if packed else collate, pad_token=0, denominator=denominator)
        if self.vision is None:
            return form(samples, idx)
        return with_pictures(samples, self.vision, partial(form, sample_ids=idx))

    def read(self) -> RecordReader:
        """The rows, from the beginning."""
        return RecordReader(self._parts, self.on_bad_row, pictures=self.cache / "images")

    @cached_property
    def records(self) -> Dataset:
        """The checked rows with columns idx, place (file:line), messages, completion and thought.

        Raises:
            UserError: One line for each faulty row.
        """
        from datasets import Dataset

        schema = self.records_schema
        key = value_digest([self.path, self.data_digest, self.on_bad_row, str(schema)])
        folder = self.cache / f"records-{key[:32]}"
        self.cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                reader = self.read()
                with new_folder(folder) as partial_folder:
                    _write_records(reader, schema, partial_folder / "rows.arrow")
                    np.save(partial_folder / "idx.npy", reader.idx())
                    left_out = {"total": reader.left_out.total, "first": list(reader.left_out)}
                    write_json(partial_folder / "left_out.json", left_out)
        warn_of_rows(**json.loads((folder / "left_out.json").read_text()))
        rows = Dataset.from_file(str(folder / "rows.arrow"))
        return rows.add_column("idx", np.load(folder / "idx.npy"))

    @cached_property
    def samples(self) -> Dataset:
        """Columns idx, input_ids, prompt_length, length and prompt_hash (in [0, 1))."""
        return self._limit_length(self.encoded)

    @cached_property
    def encoded(self) -> Dataset:
        """The samples of any length."""
        from datasets import Features, disable_progress_bars

        disable_progress_bars()  # they would break into the trainer's
        records, name = self.records, self._encoding
        encode = partial(
            self.encode,
            tokenizer=self.tokenizer,
            end_token=self.end_token,
            system_prompt=self.system_prompt,
            vocabulary=self.vocabulary,
            on_bad_row=self.on_bad_row,
            vision=self.vision,
        )
        file = self.cache / f"encoded-{name}.arrow"
        with FileLock(f"{file}.lock"):
            samples = records.map(
                encode,
                batched=True,
                features=Features(self.columns()),
                remove_columns=records.column_names,
                cache_file_name=str(file),
                new_fingerprint=name,
                num_proc=_workers(len(records)),
            )
            if unfit := len(records) - len(samples):
                rank_zero_info(f"{unfit} {self.unit} are left out: the model cannot take them")
            return samples

    def columns(self) -> dict[str, Any]:
        """The type of each column of the samples."""
        from datasets import List, Value

        names = () if self.vision is None else ("images", "image_sha256")
        return {
            "idx": Value("int64"),
            "input_ids": List(Value("int32")),
            "prompt_length": Value("int32"),
            "length": Value("int32"),
            "prompt_hash": Value("float64"),
            **{name: List(Value("string")) for name in names},
        }

    @staticmethod
    def encode(records: dict[str, list[Any]], **settings: Any) -> dict[str, list[Any]]:
        """The samples of some records, by columns; ``settings`` as of :func:`encode_records`."""
        return encode_records(records, **settings)

    def encoding_key(self) -> dict[str, Any]:
        """What the tokens of the samples depend on."""
        tokenizer: Any = self.tokenizer
        fast = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else None
        return {
            "data": self.digest,
            **({} if self.vision is None else {"vision": self.vision.key()}),
            "on_bad_row": self.on_bad_row,
            "tokenizer": value_digest(fast or [tokenizer.get_vocab(), tokenizer(PROBE).input_ids]),
            "template": str(self.tokenizer.chat_template),
            "system_prompt": self.system_prompt,
            "mask": MASK,
            "split": SPLIT,
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
        files = files_digest(part for part in self._parts if isinstance(part, Path))
        return value_digest([files, *(p.digest() for p in self._parts if not isinstance(p, Path))])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the files, and of the pictures that they name."""
        files = pc.unique(pc.list_flatten(self.records.data["images"])).to_pylist()
        if not files:
            return self.data_digest
        bar = tqdm(files, f"{self.path}: pictures", unit=" pictures", delay=5)
        try:
            return value_digest([self.data_digest, files_digest(map(Path, bar))])
        except OSError as error:
            raise UserError(
                f"{self.path}: the picture {error.filename} cannot be read ({error.strerror}) but "
                f"could be before; restore it, or remove {self.cache}"
            ) from None

    @cached_property
    def _parts(self) -> list[Part]:
        return data_parts(self.path)

    @cached_property
    def _encoding(self) -> str:
        return value_digest(self.encoding_key())[:32]

    def _limit_length(self, samples: Dataset) -> Dataset:
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
        file = self.cache / f"encoded-{self._encoding}-{self.max_length}.arrow"
        with FileLock(f"{file}.lock"):
            return samples.map(
                partial(_cut, max_length=self.max_length),
                cache_file_name=str(file),
                new_fingerprint=f"{self._encoding}{self.max_length}",
                num_proc=_workers(len(samples)),
            ).select(answered)


def column(samples: Dataset, name: str) -> NDArray[Any]:
    """A column of numbers, without a Python object for each."""
    return samples.with_format("numpy", columns=[name])[:][name]


def rows_at(samples: Dataset, positions: Sequence[int]) -> list[Any]:
    """Some rows; to make a data set of them first, by select, takes longer than to read them."""
    return samples.__getitems__(positions)


def _write_records(records: Iterable[tuple[str, Record]], schema: pa.Schema, file: Path) -> None:
    rows = ({"place": place, **record} for place, record in records)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in iter(lambda: list(islice(rows, ROWS_PER_WRITE)), []):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))


def _workers(rows: int) -> int | None:
    workers = min(os.cpu_count() or 1, 1 + rows // ROWS_PER_WORKER)
    return workers if workers > 1 else None


def _cut(sample: dict[str, Any], max_length: int) -> dict[str, Any]:
    tokens = sample["input_ids"][:max_length]
    return {"input_ids": tokens, "length": len(tokens)}
