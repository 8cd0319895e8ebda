"""What a cross-validation is: configuration, cases and folds, fixed when it begins and checked when it continues."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from raum_lightning.atomic import write_json, write_text
from raum_lightning.cases.case import Case
from raum_lightning.cases.splits import Split
from raum_lightning.errors import RunError, SplitError
from raum_lightning.runs.resume_checks import FREE, flat
from raum_lightning.runs.study_folder import StudyFolder
from raum_lightning.yaml_files import read_yaml, to_yaml

WRITER = "raum cross-validate"
# what changes no result of a fold, besides what may change when a run is resumed
FREE_GROUPS = ("run.", "trainer.logger", "trainer.callbacks", "trainer.enable_progress_bar", "trainer.devices")


@dataclass(frozen=True)
class Study:
    """A cross-validation.

    Args:
        folder: Where it lies.
        config: The whole configuration of `raum fit`.
        splits: The cases of each fold by their use.
        cases: All of these cases by id.
        modalities: What the networks see of them.
        command: The words that began it.
        code: Folders of the YAML files, in which classes of the user's own are found.
    """

    folder: StudyFolder
    config: Mapping[str, Any]
    splits: Sequence[Split]
    cases: Mapping[str, Case]
    modalities: Sequence[str]
    command: Sequence[str]
    code: Sequence[str] = ()

    def begin(self) -> None:
        """Write what is fixed from now on, or check that it is what was written.

        Raises:
            SplitError: Folds share a patient.
            RunError: The study was begun with another configuration, other cases or other folds.
        """
        check_folds_apart(self.splits, self.cases)
        if self.folder.study.exists():
            self._check_config()
            self.check_data()
            return
        self.write_config()
        write_json(self.folder.splits, [asdict(split) for split in self.splits])
        said = {"written_by": WRITER, "command": list(self.command), "code": list(self.code)}
        write_json(self.folder.study, said | {"splits": self.splits_hash, "cases": self.case_hashes()})

    def write_config(self) -> None:
        """Write the configuration by which folds train from now on; what matters for the results is as it was."""
        write_text(self.folder.config, to_yaml(dict(self.config)))

    def check_data(self) -> None:
        """Raise `RunError` where the cases or their folds are no longer those that the study began with."""
        said = self.folder.begun
        before, now = said["cases"], self.case_hashes()
        if changed := sorted(case for case in before.keys() | now.keys() if before.get(case) != now.get(case)):
            raise RunError(
                f"{self.folder.path}: the data have changed since it began ({', '.join(changed[:5])}); restore them, "
                "or begin another cross-validation with --id"
            )
        if said["splits"] != self.splits_hash:
            raise RunError(
                f"{self.folder.path}: began with other folds (now {len(self.splits)}); give the same --folds, "
                "data.splits and data.test_fraction, or begin another cross-validation with --id"
            )

    def _check_config(self) -> None:
        before, now = flat(read_yaml(self.folder.config)[0]), flat(self.config)
        free = FREE - {"data.batch_size"}  # by which folds that have not begun would take other steps
        fixed = [key for key in before.keys() | now.keys() if key not in free and not key.startswith(FREE_GROUPS)]
        if changed := sorted(key for key in fixed if before.get(key) != now.get(key)):
            key = changed[0]
            raise RunError(
                f"{self.folder.path}: was begun with {key} {before.get(key)} and not {now.get(key)}; continue it as "
                "it was, or begin another cross-validation with --id"
            )

    def case_hashes(self) -> dict[str, str]:
        """Return for each case a hash of the names and sizes of its files, the same wherever the data lie."""
        return {name: _hash_case(case, self.modalities) for name, case in sorted(self.cases.items())}

    @property
    def data_hash(self) -> str:
        """Hash of all cases."""
        return _hash(self.case_hashes())

    @property
    def splits_hash(self) -> str:
        """Hash of which case is in which part of which fold."""
        return _hash([asdict(split) for split in self.splits])

    @property
    def fold_of(self) -> dict[str, int]:
        """The fold that validates each case, by id."""
        return {case: fold for fold, split in enumerate(self.splits) for case in split.val}


def check_folds_apart(splits: Sequence[Split], cases: Mapping[str, Case]) -> None:
    """Raise `SplitError` where two folds validate the same patient, or one trains on a patient that it validates."""
    validated = [{cases[name].patient for name in split.val} for split in splits]
    for (one, ours), (other, theirs) in combinations(enumerate(validated), 2):
        if both := sorted(ours & theirs):
            raise SplitError(
                f"folds {one} and {other} both validate {', '.join(both[:5])}; in a cross-validation each patient "
                "belongs to one fold"
            )
    for fold, split in enumerate(splits):
        if both := sorted(validated[fold] & {cases[name].patient for name in (*split.train, *split.test)}):
            raise SplitError(
                f"fold {fold} validates {', '.join(both[:5])} and has them in train or test; take them out"
            )


def _hash_case(case: Case, modalities: Sequence[str]) -> str:
    return _hash([[path.name, path.stat().st_size] for path in case.files(modalities)])


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
