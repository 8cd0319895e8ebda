"""A folder of cases segmented by one segmenter: continued where it stopped, and no failure ends it."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from raum_lightning.atomic import remove_partials
from raum_lightning.cases.case import Case, read_remark
from raum_lightning.data.store import prepared_folder
from raum_lightning.errors import EvaluationError, OutputError, UserError
from raum_lightning.inference.segmentation import Segmentation
from raum_lightning.inference.segmenter import Segmenter
from raum_lightning.postprocess.probabilities import Probabilities, probabilities_path

_BLOCK = 1 << 22


@dataclass
class Outcome:
    """What became of the cases of a folder, by id.

    Args:
        written: Segmented now.
        kept: Segmented before by the same networks, settings and images.
        replaced: Of those written, which were segmented before by others.
        failed: A sentence on each case that could not be segmented.
        missing: Of those segmented now, the modalities that were missing.
    """

    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)


def segment_cases(
    segmenter: Segmenter,
    cases: Sequence[Case],
    folder: Path,
    *,
    weights: str,
    progress: Callable[[int, int], None] | None = None,
    look: Callable[[Segmentation], None] | None = None,
    probabilities: Path | None = None,
) -> Outcome:
    """Write the mask of each case, as `Case.prediction_file` in `folder`, and return what became of them.

    The header of each file holds a fingerprint of `weights` (see `hash_files`), settings and the case's files: files
    with the same are kept, files with another are replaced. `progress` is told (done, of) cases; `look` is shown each
    case that is segmented now, and a case that it refuses with a `UserError` has failed. `probabilities` is a folder
    that gets those of each case, as `<case id>.npz`.

    Raises:
        OutputError: The folder holds a file of a case that `raum` did not write; found before the first case.
    """
    check_targets(cases, folder)
    remove_partials(folder)
    outcome = Outcome()
    for done, case in enumerate(cases, 1):
        target = folder / case.prediction_file
        try:
            key = _fingerprint(segmenter, case, weights)
            before = read_remark(target) if target.exists() else None
            beside = probabilities_path(probabilities, case.id) if probabilities else None
            if before and before[1] == key and (beside is None or _is_of(beside, key)):
                outcome.kept.append(case.id)
            else:
                result = segmenter.segment(case)
                if look:
                    look(result)
                if beside:
                    result.save_raw_probabilities(beside, key)
                result.save(target, key)  # last: a case whose mask is there is done
                outcome.written.append(case.id)
                outcome.missing |= {case.id: result.missing} if result.missing else {}
                outcome.replaced += [case.id] if before else []
        except OutputError:  # in which the next case would fail as well
            raise
        except UserError as error:
            outcome.failed[case.id] = str(error)
        if progress:
            progress(done, len(cases))
    return outcome


def check_targets(cases: Iterable[Case], folder: Path) -> None:
    """Raise `OutputError` where a mask would replace a file of a case, or one that `raum` did not write."""
    for case in cases:
        target = folder / case.prediction_file
        own = {path.resolve() for path in (*case.images.values(), *([case.label] if case.label else []))}
        if target.resolve() in own:
            raise OutputError(f"{target}: is a file of case {case.id}, which would be replaced; give another folder")
        if target.exists() and read_remark(target) is None:
            raise OutputError(f"{target}: was not written by raum, which would replace it; give another folder")


def hash_files(paths: Iterable[Path]) -> str:
    """Return a hash of the content of files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _is_of(path: Path, key: str) -> bool:
    """Return whether a file holds the probabilities that were written with this fingerprint."""
    try:
        return path.exists() and Probabilities.read(path).key == key
    except EvaluationError:
        return False


def _fingerprint(segmenter: Segmenter, case: Case, weights: str) -> str:
    card = asdict(segmenter.card)
    settings = [weights, card["flips"], card["overlap"], card["roi_size"], str(segmenter.dtype), segmenter.dataset]
    # the name says which files, in which state
    files = prepared_folder(case, Path(), segmenter.modalities_of(case)).name
    key = json.dumps([*settings, segmenter.steps.plain, files])
    return hashlib.sha256(key.encode()).hexdigest()[:16]
