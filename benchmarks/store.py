"""How prepared volumes should lie on disk: bytes, and the time to read a patch from cache, from disk and among readers.

    python benchmarks/store.py                      # writes synthetic cases once
    python benchmarks/store.py --cases DIR --box 96 --readers 1 2 4

A box is read as PatchDataset reads it: C X Y Z, float16, contiguous, from the volume cropped to the brain. Formats:

npy          one .npy, C X Y Z, mapped: what the package uses
npy, C last  one .npy, X Y Z C, mapped
npy, blocks  one .npy of blocks of 32^3, C X Y Z inside a block, mapped
blosc2       blocks of 32^3, bit shuffle and zstd or lz4 (with `pip install blosc2`)
zarr         chunks of 32^3, zstd (with `pip install zarr`)

Cold means that the file was dropped from the page cache (POSIX_FADV_DONTNEED), so that this machine's disk is in it.
Formats take turns; milliseconds are medians over boxes, and with readers the boxes per second of all together.
"""

import argparse
import importlib.util
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raum_lightning.cases.discovery import find_cases
from raum_lightning.data.store import Prepared, prepare, prepared_folder

MODALITIES = ("flair", "t1ce", "t2")
EDGE = 32  # of blocks and chunks
Box = tuple[slice, slice, slice]
Shape = tuple[int, ...]
Volume = NDArray[Any]


class Format(NamedTuple):
    """Writes a volume C X Y Z to a path, and reads a box of it."""

    write: Callable[[Volume, Path], None]
    read: Callable[[Path, Box], Volume]


def write_npy(volume: Volume, path: Path) -> None:
    np.save(path, volume)


def read_npy(path: Path, box: Box) -> Volume:
    return np.array(np.load(path, mmap_mode="r")[:, *box])


def write_channels_last(volume: Volume, path: Path) -> None:
    np.save(path, np.ascontiguousarray(np.moveaxis(volume, 0, -1)))


def read_channels_last(path: Path, box: Box) -> Volume:
    return np.ascontiguousarray(np.moveaxis(np.load(path, mmap_mode="r")[*box], -1, 0))


def write_blocks(volume: Volume, path: Path) -> None:
    channels, *shape = volume.shape
    x, y, z = (-(-n // EDGE) for n in shape)
    padded = np.zeros((channels, x * EDGE, y * EDGE, z * EDGE), volume.dtype)
    padded[:, *(slice(n) for n in shape)] = volume
    blocks = padded.reshape(channels, x, EDGE, y, EDGE, z, EDGE).transpose(1, 3, 5, 0, 2, 4, 6)
    np.save(path, np.ascontiguousarray(blocks))


def read_blocks(path: Path, box: Box) -> Volume:
    blocks = np.load(path, mmap_mode="r")
    out = np.empty((blocks.shape[3], *(part.stop - part.start for part in box)), blocks.dtype)
    for index in product(*(range(part.start // EDGE, -(-part.stop // EDGE)) for part in box)):
        source, target = [], []
        for at, part in zip(index, box, strict=True):
            low, high = max(part.start, at * EDGE), min(part.stop, (at + 1) * EDGE)
            source.append(slice(low - at * EDGE, high - at * EDGE))
            target.append(slice(low - part.start, high - part.start))
        out[:, *target] = blocks[index][:, *source]
    return out


def write_blosc2(codec: str, level: int, volume: Volume, path: Path) -> None:
    import blosc2

    how = {"codec": blosc2.Codec[codec], "clevel": level, "filters": [blosc2.Filter.BITSHUFFLE], "nthreads": 1}
    layout = {"chunks": (len(volume), 2 * EDGE, 2 * EDGE, 2 * EDGE), "blocks": (1, EDGE, EDGE, EDGE)}
    # it knows no float16
    blosc2.asarray(volume.view(np.uint16), urlpath=str(path), mode="w", cparams=how, **layout)


def read_blosc2(path: Path, box: Box) -> Volume:
    import blosc2

    words = blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})[:, *box]
    return np.asarray(words).view(np.float16)


def write_zarr(volume: Volume, path: Path) -> None:
    import zarr

    chunks = (len(volume), EDGE, EDGE, EDGE)
    zarr.create_array(path, shape=volume.shape, chunks=chunks, dtype=volume.dtype)[:] = volume


def read_zarr(path: Path, box: Box) -> Volume:
    import zarr

    return np.asarray(zarr.open_array(path, mode="r")[:, *box])


FORMATS = {
    "npy": Format(write_npy, read_npy),
    "npy, C last": Format(write_channels_last, read_channels_last),
    "npy, blocks": Format(write_blocks, read_blocks),
    "blosc2, zstd": Format(partial(write_blosc2, "ZSTD", 1), read_blosc2),
    "blosc2, lz4": Format(partial(write_blosc2, "LZ4", 5), read_blosc2),
    "zarr, zstd": Format(write_zarr, read_zarr),
}


def boxes(shapes: Sequence[tuple[int, ...]], edge: int, seed: int = 0) -> Iterator[tuple[int, Box]]:
    """Cases and boxes in them, without end."""
    rng = np.random.default_rng(seed)
    while True:
        case = int(rng.integers(len(shapes)))
        x, y, z = (
            slice(first, first + min(edge, n))
            for n in shapes[case][1:]
            for first in [int(rng.integers(max(0, n - edge) + 1))]
        )
        yield case, (x, y, z)


def files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [below for below in path.rglob("*") if below.is_file()]


def drop(path: Path) -> None:
    """Out of the page cache."""
    for file in files(path):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def read_for(seconds: float, name: str, paths: list[Path], shapes: list[Shape], edge: int, seed: int) -> int:
    """Boxes that one reader reads in so many seconds."""
    count, started = 0, time.perf_counter()
    for case, box in boxes(shapes, edge, seed):
        FORMATS[name].read(paths[case], box)
        count += 1
        if time.perf_counter() - started > seconds:
            break
    return count


def one_reader(
    written: dict[str, list[Path]], shapes: list[Shape], edge: int, count: int
) -> dict[str, tuple[float, float, float]]:
    """Milliseconds of a box from disk, from cache, and of the processor's time; formats take turns."""
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in written}
    for case, box in islice(boxes(shapes, edge), count):
        want = read_npy(written["npy"][case], box)
        for name, paths in written.items():
            drop(paths[case])
            clocks = [(time.perf_counter(), time.process_time())]
            for _ in range(2):
                got = FORMATS[name].read(paths[case], box)
                clocks.append((time.perf_counter(), time.process_time()))
            assert np.array_equal(got, want)
            start, cold, warm = clocks
            times[name].append((cold[0] - start[0], warm[0] - cold[0], warm[1] - cold[1]))
    return {name: tuple(1e3 * np.median(rows, axis=0)) for name, rows in times.items()}


def many_readers(readers: int, seconds: float, name: str, paths: list[Path], shapes: list[Shape], edge: int) -> float:
    """Boxes per second of all together, from cache."""
    with multiprocessing.get_context("spawn").Pool(readers) as pool:
        jobs = [(name, paths, shapes, edge, seed) for seed in range(readers)]
        pool.starmap(read_for, [(0.1, *job) for job in jobs])  # imports are done and the cache is filled
        return sum(pool.starmap(read_for, [(seconds, *job) for job in jobs])) / seconds


def write_all(cases: list[Prepared], folder: Path) -> tuple[dict[str, list[Path]], dict[str, float]]:
    """Files by format, and the milliseconds of processor time that writing a case took."""
    written, spent = {}, {}
    for name, form in FORMATS.items():
        if name.split(",")[0] in ("blosc2", "zarr") and not importlib.util.find_spec(name.split(",")[0]):
            continue
        ending = ".npy" if name.startswith("npy") else ""
        written[name] = [folder / f"{name}-{number}{ending}" for number in range(len(cases))]
        started = time.process_time()
        for case, path in zip(cases, written[name], strict=True):
            form.write(np.array(case.image), path)
        spent[name] = 1e3 * (time.process_time() - started) / len(cases)
    return written, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, default=Path("runs/benchmark-cases"))
    parser.add_argument("--box", type=int, default=128, help="edge in voxels")
    parser.add_argument("--boxes", type=int, default=20, help="read by one reader, cold and warm")
    parser.add_argument("--readers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=3, help="that the readers of a row read")
    options = parser.parse_args()
    if not options.cases.exists():
        from raum_lightning.phantom import write_phantoms

        write_phantoms(options.cases, cases=8)

    with tempfile.TemporaryDirectory(dir=options.cases.parent) as scratch:
        folder = Path(scratch)
        found = find_cases(options.cases)
        prepare(found, folder / "prepared", MODALITIES)
        cases = [Prepared.open(prepared_folder(case, folder / "prepared", MODALITIES)) for case in found]
        shapes = [case.image.shape for case in cases]
        written, spent = write_all(cases, folder)
        print(f"{len(cases)} cases, boxes of {options.box}^3, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(f"{'':14}{'MB a case':>10}{'write ms':>10}{'cold ms':>9}{'warm ms':>9}{'CPU ms':>8}", end="")
        print("".join(f"{f'{readers} readers /s':>15}" for readers in options.readers))
        alone = one_reader(written, shapes, options.box, options.boxes)
        for name, paths in written.items():
            size = sum(file.stat().st_size for path in paths for file in files(path)) / len(paths) / 1e6
            cold, warm, cpu = alone[name]
            print(f"{name:14}{size:10.1f}{spent[name]:10.0f}{cold:9.1f}{warm:9.1f}{cpu:8.1f}", end="")
            for readers in options.readers:
                rate = many_readers(readers, options.seconds, name, paths, shapes, options.box)
                print(f"{rate:15.0f}", end="", flush=True)
            print()


if __name__ == "__main__":
    main()
