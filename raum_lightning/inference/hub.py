"""Networks that others share on the Hugging Face hub: `hf://org/name` or `hf://org/name/file.safetensors`.

Only safetensors are taken, which cannot run code when they are opened. They go through the hub's own client, which
keeps them in its cache (HF_HUB_CACHE) and asks no server where HF_HUB_OFFLINE is 1.
"""

from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from raum_lightning.errors import CheckpointError

SCHEME = "hf:"
SUFFIX = ".safetensors"


def local(path: Path | str) -> Path:
    """Return a file that an `hf://` address names, fetched where the cache lacks it; any other path as it is.

    Without a file, the address is that of the only *.safetensors there.

    Raises:
        CheckpointError: It is no such address, names another kind of file or none, or cannot be fetched.
    """
    scheme, *parts = PurePosixPath(path).parts or ("",)
    if scheme != SCHEME:
        return Path(path)
    address = f"hf://{'/'.join(parts)}"  # of which a `Path` loses a stroke
    if len(parts) < 2:
        raise CheckpointError(
            f"{address}: is not a valid address; give hf://organisation/name or hf://organisation/name/file"
        )
    repository, file = "/".join(parts[:2]), "/".join(parts[2:])
    if file and not file.endswith(SUFFIX):
        raise CheckpointError(
            f"{address}: only *{SUFFIX} are taken from the hub, as opening another kind of file can run code; ask its "
            "authors for the network as `raum export --format safetensors` writes it"
        )
    if find_spec("huggingface_hub") is None:
        raise CheckpointError(
            f"{address}: needs huggingface_hub, which is not installed: pip install 'raum-lightning[hub]', or download "
            "the file"
        )
    return _fetched(address, repository, file)


def _fetched(address: str, repository: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        if file:
            return Path(hf_hub_download(repository, file))
        folder = Path(snapshot_download(repository, allow_patterns=f"*{SUFFIX}"))
    except Exception as error:  # of the client, of its HTTP library, or of the disk: they share no base but this
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(f"{address}: cannot be fetched ({reason})") from error
    found = sorted(str(one.relative_to(folder)) for one in folder.rglob(f"*{SUFFIX}"))
    if len(found) != 1:
        names = f"{len(found)} of them ({', '.join(found[:5])}); add the name of one" if found else "none"
        raise CheckpointError(f"{address}: should hold one *{SUFFIX} and holds {names}")
    return folder / found[0]
