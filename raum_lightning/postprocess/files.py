"""The cases of a search, in processes that keep them: a file is read once, a case always asked of the same process."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from raum_lightning.errors import EvaluationError, UserError
from raum_lightning.geometry import voxel_size
from raum_lightning.labels import Thresholds
from raum_lightning.metrics import Rules
from raum_lightning.metrics.evaluation import processes
from raum_lightning.metrics.folders import MaskFile, read_pair
from raum_lightning.postprocess import Labels, Postprocess
from raum_lightning.postprocess.probabilities import Probabilities
from raum_lightning.postprocess.variants import Values, Variants

# of each case, after each variant
Rows = list[list[Values]]

# what this process keeps, by number of the case
_cases: dict[int, Variants] = {}


@dataclass(frozen=True)
class Files:
    """What the search needs of a case: both masks, the probabilities where there are any, and the rules."""

    prediction: MaskFile
    reference: MaskFile
    probabilities: Path | None
    rules: Rules

    def read(self) -> Variants:
        """Return the case; raise `UserError` where a file cannot be read or does not belong to the others."""
        dataset = self.reference.dataset
        prediction, target, affine = read_pair(self.prediction, self.reference)
        decide = None
        if self.probabilities:
            _probabilities(self.probabilities).check(self.probabilities, prediction.numpy(), dataset)
            decide = partial(self._decide, self.probabilities)
        masks = prediction.numpy(), target.numpy()
        return Variants(
            *masks, self.rules.of(dataset.classes), spacing=voxel_size(affine), dataset=dataset, decide=decide
        )

    def _decide(self, path: Path, thresholds: Thresholds) -> Labels:
        return _probabilities(path).labels(self.reference.dataset, thresholds)


@contextmanager
def kept(files: Sequence[Files], workers: int) -> Iterator[Callable[[Sequence[Postprocess]], Rows]]:
    """Give the scores of all cases after each variant, found by so many processes of which this is one.

    It raises `EvaluationError` where a case cannot be scored.
    """
    with ExitStack() as stack:
        stack.callback(_cases.clear)
        # one process each, since a pool of several would give a case to any of them
        pools = [stack.enter_context(processes(1)) for _ in range(workers - 1)]
        yield partial(_table, pools, files)


def _table(pools: Sequence[ProcessPoolExecutor], files: Sequence[Files], tried: Sequence[Postprocess]) -> Rows:
    """Return the rows of all cases; this process takes those that no other has."""
    numbered = list(enumerate(files))
    others: dict[int, Future[list[Values] | str]] = {
        number: pools[number % (len(pools) + 1)].submit(_row, number, case, tried)
        for number, case in numbered
        if number % (len(pools) + 1) < len(pools)
    }
    try:
        own = {number: _row(number, case, tried) for number, case in numbered if number not in others}
        rows = [own[number] if number in own else others[number].result() for number, _ in numbered]
    finally:
        for future in others.values():
            future.cancel()
    found: Rows = []
    for row in rows:
        if isinstance(row, str):
            raise EvaluationError(row)
        found.append(row)
    return found


def _row(number: int, files: Files, tried: Sequence[Postprocess]) -> list[Values] | str:
    """Return the scores of one case after each variant; or why there are none."""
    try:
        if number not in _cases:
            _cases[number] = files.read()
        return _cases[number].scores(tried)
    except UserError as error:
        return str(error)


@lru_cache(maxsize=1)
def _probabilities(path: Path) -> Probabilities:
    """Return those of a file; one case is in memory, whose variants come one after the other."""
    return Probabilities.read(path)
