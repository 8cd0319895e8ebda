"""Which cases a run reads: those found below its folder, in the parts of its split."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from raum_lightning.cases.case import Case
from raum_lightning.cases.discovery import find_cases
from raum_lightning.cases.splits import Split, held_out, make_split, read_split
from raum_lightning.data.option_checks import check_names
from raum_lightning.data.sampling import weights_of
from raum_lightning.data.store import Prepared
from raum_lightning.datasets import DataSet
from raum_lightning.errors import CaseError, ConfigError, UserError


class SelectedCases(pl.LightningDataModule):
    """Finds and splits the cases of a run; `BratsDataModule` adds the options, and reads them as batches.

    `select` sets `cases`, those of this run by id, `split`, as far as `fold` says, and `weights`, by which the training
    cases are sampled.
    """

    root: Path
    declared: DataSet | str  # the data set, or auto
    splits: Path | None  # a file instead of folds
    folds: int
    fold: int
    test_fraction: float
    exclude: frozenset[str]
    case_weights: dict[str, float]
    predict_root: Path | None
    prepared: dict[str, Prepared]
    _modalities: tuple[str, ...]  # as given; empty for those of the data set

    def __init__(self) -> None:
        super().__init__()
        self.split = Split([], [], [])
        self.cases: dict[str, Case] = {}
        self.weights: list[float] = []
        self._found: dict[Path, list[Case]] = {}

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """What the channels of the image are, in their order."""
        known = self.dataset
        check_names("modalities", self._modalities or known.modalities, list(known.images))
        return self._modalities or known.modalities

    @cached_property
    def dataset(self) -> DataSet:
        """The data set; of several that were recognised the one with the most classes, and then with the most cases.

        Raises:
            ConfigError: The classes of the cases differ.
        """
        if isinstance(self.declared, DataSet) and not self.declared.index:
            return self.declared
        # a case can be predicted where those that trained are not
        root = self.predict_root if self.predict_root and not self.root.exists() else self.root
        return common_dataset(self._find(root), root)

    @property
    def predict_cases(self) -> list[str]:
        """The ids of the cases in `predict_root`, else of the test cases."""
        return sorted(self.prepared) if self._predicts_elsewhere else self.split.test

    def select(self, *, announce: bool = False) -> None:
        """Find the cases; set `cases`, those of this run by id, and `split`, as far as `fold` says; check weights."""
        if self._predicts_elsewhere:
            # without masks, which may be in the label values of another data set
            self.cases = {case.id: replace(case, label=None) for case in self._find(self.predict_root)}
            return
        found = self._find(self.root)
        labelled = [case for case in found if case.label]
        if not labelled:
            patterns = " or ".join(self.dataset.mask)
            said = f"; no file fits {patterns}, the mask of data set {self.dataset.name}" if patterns else ""
            raise CaseError(f"{self.root}: none of its {len(found)} cases has a mask{said}")
        if announce and (without := [case.id for case in found if not case.label]):
            rank_zero_info(f"{len(without)} cases have no mask and are left out: {', '.join(without[:5])}")
        if announce and (patients := len({case.patient for case in labelled})) < len(labelled):
            rank_zero_info(f"{len(labelled)} cases of {patients} patients: all visits of a patient stay in one part")
        if splits := self.splits or self._own_splits:
            self.split = read_split(splits, labelled, fold=self.fold)
            if announce:
                rank_zero_info(f"split: {splits}, fold {self.fold}")
        else:
            self.split = make_split(labelled, folds=self.folds, fold=self.fold, test_fraction=self.test_fraction)
        if announce and (kept := held_out(labelled)) and kept == self.split.test:
            rank_zero_info(f"test: the {len(kept)} cases that the data set holds out, whatever data.test_fraction is")
            parts = {*self.split.train, *self.split.val, *kept}
            if visits := [case.id for case in labelled if case.id not in parts]:
                rank_zero_info(f"{len(visits)} other visits of their patients are left out: {', '.join(visits[:5])}")
        used = {*self.split.train, *self.split.val, *self.split.test}
        self.cases = {case.id: case for case in labelled if case.id in used}
        self.weights = weights_of(self.split.train, self.case_weights, {*self.cases, *self.exclude})

    @property
    def _own_splits(self) -> Path | None:
        """The file that the data set names; a YAML of one's own has to be right, nnU-Net's may lie there or not."""
        if not self.dataset.splits:
            return None
        path = self.root / self.dataset.splits
        return path if self.dataset is self.declared or path.is_file() else None

    def _find(self, root: Path | None) -> list[Case]:
        """Return the cases below a folder that are not excluded; each folder is searched once."""
        root = root or self.root
        if root not in self._found:
            self._found[root] = find_cases(root, self.declared) if root == self.root else self._find_elsewhere(root)
        found = self._found[root]
        if root == self.root and (unknown := sorted(self.exclude - {case.id for case in found})):
            raise ConfigError(f"data.exclude names {', '.join(unknown[:5])}, no such case in {root}")
        return [case for case in found if case.id not in self.exclude]

    def _find_elsewhere(self, root: Path) -> list[Case]:
        """Cases to predict, called as those that trained where nothing else is said."""
        try:
            return find_cases(root, self.declared, above=True)
        except CaseError as error:
            if not self.root.exists():
                raise
            try:
                trained = self.dataset
            except UserError:
                raise error from None
            # that of a dataset.json, which lies with the cases that trained
            own = isinstance(self.declared, DataSet) and self.declared.index
            return find_cases(root, trained if own else self.declared, prefer=trained, above=True)

    @property
    def _predicts_elsewhere(self) -> bool:
        predicting = self.trainer is not None and self.trainer.predicting
        return predicting and self.predict_root is not None


def common_dataset(cases: Sequence[Case], root: Path) -> DataSet:
    """Return the data set with the most classes, and then with the most cases; `root` is where the cases lie.

    Raises:
        ConfigError: The classes of the cases differ.
    """
    found = {case.dataset.name: case.dataset for case in cases}
    counts = Counter(case.dataset.name for case in cases)
    known = max(found.values(), key=lambda dataset: (dataset.num_classes, counts[dataset.name]))
    for other in found.values():
        if other.classes != known.classes[: other.num_classes]:
            raise ConfigError(
                f"{root} has cases of {known.name} ({', '.join(known.classes[1:])}) and of {other.name} "
                f"({', '.join(other.classes[1:])}): keep them apart, or declare one of them as data.dataset"
            )
    return known
