"""`raum plan`: what a training will need, measured by a few made-up steps before any case is prepared."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raum_lightning.errors import ConfigError, RunError

COMMAND = "raum plan"
# all other options are those of `lightning fit`, of which `lightning fit --plan` is this verb
FORWARDS = True
CHECKPOINTING = "--module.network.init_args.checkpointing"
GIB = 2**30


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.allow_abbrev = False
    parser.epilog = (
        "All other options are those of `lightning fit`. Give it the file of --out as a second -c. "
        "`lightning fit --plan ...` is the same as `raum plan ...`."
    )
    add = parser.add_argument
    add("-c", "--config", type=Path, action="append", required=True, metavar="YAML", help="an experiment; or several")
    add("--data.root", dest="root", type=Path, metavar="DIR", help="cases: counted, and one read for its size")
    add("--memory", type=float, metavar="GIB", help="what there is (default: the GPU's, or this machine's)")
    add("--out", type=Path, metavar="YAML", help="write the keys here that make it fit")


def run(args: argparse.Namespace) -> int:
    """Measure and print what training needs, and return 0; 1 where no tried setting fits."""
    from raum_lightning.cli.known_keys import check_keys
    from raum_lightning.runs.outputs import check_output

    if args.out:
        if args.out.suffix not in (".yaml", ".yml"):
            raise ConfigError(f"{args.out}: the name must end in .yaml")
        check_output(args.out, COMMAND)
    words = [word for file in args.config for word in ("-c", str(file))]
    words += ["--data.root", str(args.root)] if args.root else []
    words += args.forwarded
    words += [] if args.root else _data_set(words)
    check_keys("fit", words)
    first = found = measure_apart(words)
    room = (args.memory or found["memory"] / GIB) * GIB
    keys: dict[str, Any] = {}
    for keys, more in _ways(first):
        found = first if not more else measure_apart([*words, *more])
        _print(found, room, keys)
        if fits := found["peak"] <= 0.95 * room:
            break
    _print_rest(found)
    if not fits:
        print(
            f"nothing that was tried fits into {room / GIB:.1f} GiB: lower data.roi_size or the network's feature_size"
        )
    elif args.out:
        _write(args.out, keys, args.config, words)
    return int(not fits)


def _data_set(words: list[str]) -> list[str]:
    """Return the option for BraTS 2020, where neither a data set nor a folder of cases says which classes there are."""
    from raum_lightning.cli.command_line import read_command_line
    from raum_lightning.cli.config_inheritance import mapping

    data = mapping(read_command_line(words).together()[0].get("data"))
    known = data.get("dataset", "auto") != "auto" or ("root" in data and Path(str(data["root"])).is_dir())
    return [] if known else ["--data.dataset", "brats2020"]


def _ways(first: dict[str, Any]) -> list[tuple[dict[str, Any], list[str]]]:
    """Return keys, as a tree and as words, from what is asked for to what takes least memory."""
    ways: list[tuple[dict[str, Any], list[str]]] = [({}, [])]
    parts = ("decoder", "all") if first["checkpointing"] else ()
    ways += [({"module": {"network": {"init_args": {"checkpointing": part}}}}, [CHECKPOINTING, part]) for part in parts]
    if (batch := first["batch"]) > 1:
        tree, words = ways[-1]
        smaller = {"data": {"batch_size": 1}, "trainer": {"accumulate_grad_batches": batch * first["accumulated"]}}
        more = ["--data.batch_size", "1", "--trainer.accumulate_grad_batches", str(batch * first["accumulated"])]
        ways.append((tree | smaller, [*words, *more]))
    return ways


def _print(found: dict[str, Any], room: float, keys: dict[str, Any]) -> None:
    import json

    changed = f" with {json.dumps(keys)}" if keys else ""
    print(
        f"{found['network']}, batch {found['batch']}, {found['precision']} on {found['device']}{changed}: peak "
        f"{found['peak'] / GIB:.2f} of {room / GIB:.1f} GiB, {found['seconds']:.3g} s a step"
    )


def _print_rest(found: dict[str, Any]) -> None:
    per_step = found["batch"] * found["accumulated"]
    seconds, workers = found["seconds"], found["workers"]
    rate = max(1, workers) / found["seconds_of_patch"]
    waited = max(seconds, per_step / rate) if workers else seconds + per_step / rate
    source = f"{workers} workers" if workers else "the main process, between steps (data.num_workers 0)"
    print(f"data: {rate:.3g} patches a second from {source}; the steps alone would take {per_step / seconds:.3g}")
    steps = int(found["time"] / waited) if found["time"] else found["steps"]
    about, hours = "at most " if found["time"] else "", steps * waited / 3600
    print(f"schedule: {about}{steps} steps, {hours:.1f} h with waiting for data, without validation")
    print(f"validation: {found['seconds_of_case']:.3g} s a case")
    print(f"checkpoints: three files of {found['checkpoint'] / 1e6:.0f} MB at most")
    per_case = found["voxels"] * (2 * found["channels"] + 1) / 1e6
    total = f", {per_case * found['cases'] / 1e3:.1f} GB for {found['cases']}" if found["cases"] else ""
    of = "estimate from the first case" if found["cases"] else "estimate for BraTS"
    print(f"prepared cases: about {per_case:.0f} MB each{total} ({of})")


def _write(path: Path, keys: dict[str, Any], files: Sequence[Path], words: list[str]) -> None:
    from raum_lightning.atomic import write_text
    from raum_lightning.cli.command_line import read_command_line
    from raum_lightning.cli.config_inheritance import mapping
    from raum_lightning.cli.run_plan import experiment_of
    from raum_lightning.yaml_files import to_yaml

    own = mapping(read_command_line(words).together()[0].get("run")).get("experiment")
    # given as a second -c it does not give the runs its own name
    text = to_yaml({"run": {"experiment": own or experiment_of(files)}} | keys)
    write_text(path, f"# written by {COMMAND} for {', '.join(map(str, files))}\n{text}")
    print(f"{path}: {'the keys that make it fit' if keys else 'no key is needed'}")


def measure_apart(words: list[str]) -> dict[str, Any]:
    """Return what `measure` does, in a process of its own, whose peak of memory is its own."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, words).result()
        except BrokenProcessPool as error:
            raise RunError(
                "the process that measured the steps was killed, usually because it ran out of memory"
            ) from error


def measure(words: list[str]) -> dict[str, Any]:
    """Take a few steps and validate, as `lightning fit` with these words would; return what they took."""
    from tempfile import TemporaryDirectory

    from raum_lightning.cli.log_filters import quieten
    from raum_lightning.cli.trial import TrialCLI

    quieten()

    with TemporaryDirectory() as folder:
        own = ["--trainer.logger", "false", "--run.root", folder, "--trainer.enable_progress_bar", "false"]
        return TrialCLI(["fit", *words, *own]).found
