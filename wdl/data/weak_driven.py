"""Weak-driven data: samples weighted by what the branches of a pair know of them, and drawn.

    tokens → entropies (weak, strong) → weights → draw

Without a weak branch nothing is scored and the weights are uniform, which is plain SFT.
"""

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from wdl.branches.loading import check_same_vocabulary
from wdl.config.paths import DataSource, ModelSource
from wdl.data.corpus import column
from wdl.data.planned import PlannedDataModule
from wdl.data.score_table import ScoreTable
from wdl.data.scoring import ENTROPY, branch_digest, model_scores
from wdl.data.selection import Selection
from wdl.data.weights import sampling_weights
from wdl.errors import UserError

PUBLISHED_SELECTION = Selection()


class WeakDrivenDataModule(PlannedDataModule):
    """Scores, weights and draws instruction data for a weak/strong pair.

    Args:
        path: Instruction data: a .json, .jsonl, .jsonl.zst or .parquet file, a folder of them, or
            a data set of the hub (organisation/name, organisation/name:part).
        strong: The branch that is made stronger. Its tokenizer encodes the data.
        weak: The earlier branch, or null.
        selection: How samples are weighted and drawn.
        **planned: As of :class:`PlannedDataModule`.
    """

    def __init__(
        self,
        path: DataSource,
        strong: ModelSource,
        weak: ModelSource | None = None,
        selection: Selection = PUBLISHED_SELECTION,
        **planned: Any,
    ) -> None:
        super().__init__(path=path, strong=strong, **planned)
        if weak is None and selection.weights != "uniform" and selection.entropies is None:
            raise UserError(
                f"data.selection.weights: {selection.weights} compares two branches, but "
                "model.weak is null; use uniform, or give data.selection.entropies"
            )
        if weak is not None:
            self.branches["weak"] = weak
        self.selection = selection

    def check_inputs(self, pretrained: bool = True) -> None:
        """Also look at the file of entropies, and whether the branches fit each other.

        Args:
            pretrained: Whether the strong branch's weights are wanted.

        Raises:
            UserError: Everything that is wrong with the input.
        """
        super().check_inputs(pretrained)
        if self.selection.entropies is not None and self.selection.weights != "uniform":
            ScoreTable.read(Path(self.selection.entropies)).rounds()
        if "weak" in self.branches:
            check_same_vocabulary(self.branches["strong"], self.branches["weak"])

    def settings(self) -> dict[str, Any]:
        """The weights and the draw."""
        names = ("weights", "alpha", "beta", "gamma", "draw")
        return {name: getattr(self.selection, name) for name in names}

    def control(self) -> list[str]:
        """All samples alike, in plain epochs of as many tokens; in one, if the run ended early."""
        assert self.trainer is not None
        tokens, rest = self.summary.tokens, []
        if self.trainer.global_step < self.planned_steps:
            tokens = round(tokens * self.trainer.global_step / self.summary.steps)
            rest = ["--trainer.max_epochs", "1", "--trainer.max_steps", "-1"]
        return [
            *("--data.selection.weights", "uniform"),
            *("--data.selection.draw", "without_replacement"),
            *("--data.selection.tokens", str(tokens)),
            *rest,
        ]

    def draw(self, lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """From the weights, by ``selection.draw``."""
        probabilities = self._weigh()
        return self.selection.draw_epoch(probabilities, lengths, self.seed), probabilities

    def weights(
        self, history: NDArray[np.float64], idx: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], dict[str, float]]:
        """Probability of drawing each sample; a weight form of one's own overrides this.

        Args:
            history: [rounds, samples] mean token entropies, nats; the last round is the strong
                branch's, the one before it the weak one's.
            idx: [samples] what messages call the samples.

        Returns:
            [samples] float64 that sums to 1; and named shares of it, for the logs.
        """
        chosen = self.selection
        return sampling_weights(
            chosen.weights, history, chosen.alpha, chosen.beta, chosen.gamma, idx
        )

    def _weigh(self) -> NDArray[np.float64]:
        """Probability of drawing each training sample; logs what it is made of."""
        assert self.trainer is not None
        if self.selection.weights == "uniform":
            return sampling_weights("uniform", np.empty((0, len(self.train_samples))))[0]
        history, known = self._history()
        idx = column(self.train_samples, "idx")
        drawable, shares = self.weights(history, idx[known])
        self.log_once({f"mass/{term}": share for term, share in shares.items()})
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and self.trainer.is_global_zero:
                from wdl.data.selection_figure import selection_figure

                figure = selection_figure(history, drawable)
                logger.experiment.add_figure("selection", figure)
        probabilities = np.zeros(len(known))
        probabilities[known] = drawable
        return probabilities

    def _history(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """[rounds, known samples] entropies, and which training samples are known."""
        idx = column(self.train_samples, "idx")
        if self.selection.entropies is None:
            rounds = np.stack([self._scores(name) for name in ("weak", "strong")])
            return rounds, np.ones(len(idx), dtype=bool)
        table = ScoreTable.read(Path(self.selection.entropies))
        place, known = table.find(idx, self.selection.missing_entropies)
        if not known.all():
            rank_zero_info(f"{(~known).sum()} training samples have no entropy and are not drawn")
        return table.rounds()[:, place[known]], known

    def _scores(self, name: str) -> NDArray[np.float64]:
        """[training samples] entropies under one branch; every process scores a share."""
        assert self.trainer is not None
        return model_scores(
            ENTROPY,
            self.branches[name],
            branch_digest(self.branches[name], self.trainer),
            self.train_samples,
            {**self.corpus.key(), "val_fraction": self.val_fraction},
            self.cache,
            self.corpus.collate,
            self.trainer,
        )
