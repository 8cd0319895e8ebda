"""Experiments that build on each other: the key `base` of a YAML file, and several files given with `-c`."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from raum_lightning.cli.shipped import find_experiment
from raum_lightning.errors import RunError
from raum_lightning.yaml_files import Key, read_yaml

Tree = dict[str, Any]
CLASS = "class_path"
# two ways to say how long a run is, of which the one that is given later counts
LENGTHS = ("max_steps", "max_epochs")


@dataclass
class Configuration:
    """What files say together: the tree, where the value of each key stands, and the folders of the files.

    `shipped` are those of `files` and bases that were not found where they were named, and taken from the package.
    """

    files: list[Path]
    tree: Tree = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    places: dict[Key, str] = field(default_factory=dict)
    shipped: list[Path] = field(default_factory=list)


def read_files(files: Sequence[Path]) -> Configuration:
    """Merge files and their bases: all bases first, each once, then the files in the order in which they are given.

    A file that is a base of a later one counts as that base; one that is not there, be it given or a base, is the
    shipped experiment of its name, if there is one. See `merge` for what wins over what.

    Raises:
        RunError: A file is not there, has no keys, or is its own base.
        ConfigError: A file is not valid YAML or has a key twice.
    """
    content: dict[Path, tuple[Tree, dict[Key, str]]] = {}
    given, files = files, [find_experiment(file) for file in files]
    shipped = [found for file, found in zip(given, files, strict=True) if found != file]
    chains = [_chain(file, content, shipped) for file in files]
    bases = [file for chain in chains for file in chain[:-1]]
    tops = [
        chain[-1] for place, chain in enumerate(chains) if not any(chain[-1] in c[:-1] for c in chains[place + 1 :])
    ]
    merged = Configuration(list(files), shipped=shipped)
    for file in [*dict.fromkeys(bases), *tops]:
        tree, places = content[file]
        trainer = mapping(tree.get("trainer"))
        forget_length(merged.tree, {key: trainer[key] for key in LENGTHS if key in trainer})
        merged.tree = merge(merged.tree, tree)
        merged.places |= places
    merged.folders = list(dict.fromkeys(file.parent for file in reversed(content)))
    return merged


def forget_length(tree: Tree, given: Mapping[str, Any]) -> None:
    """Remove how long a run is from the trainer's keys of `tree`, where `given` says it again.

    Lightning ends a run at the smaller of `max_steps` and `max_epochs`: an inherited one would cut the given one short.
    So would `max_time`, which is removed where it alone says how long the run is; beside steps or epochs it is a limit.
    Given as null or -1, a key says nothing on it.
    """
    if given:
        trainer = mapping(tree.get("trainer"))
        says = any(str(value) not in ("None", "null", "-1") for value in given.values())
        if says and all(trainer.get(key) in (None, -1) for key in LENGTHS):
            trainer.pop("max_time", None)
        for key in LENGTHS:
            trainer.pop(key, None)


def merge(under: Any, over: Any) -> Any:
    """Return `under` with what `over` says otherwise.

    Mappings are merged key by key. Lists are replaced, and so is a mapping whose `class_path` becomes another class:
    that class starts from its own defaults.
    """
    if isinstance(under, str) and isinstance(over, Mapping) and CLASS not in over and "init_args" in over:
        under = {CLASS: under}  # the short form of a class without arguments
    if isinstance(over, str) and isinstance(under, Mapping) and not replaces(under, over):
        over = {CLASS: over}
    if not (isinstance(under, Mapping) and isinstance(over, Mapping)) or replaces(under, over):
        return deepcopy(over)
    both = under.keys() & over.keys()
    return {
        key: merge(under[key], over[key]) if key in both else deepcopy(value)
        for key, value in {**under, **over}.items()
    }


def replaces(under: Mapping[str, Any], over: Any) -> bool:
    """Return whether `over`, the name of a class or a mapping, asks for another class than `under` has."""
    wanted = over.get(CLASS) if isinstance(over, Mapping) else over
    return wanted is not None and not (CLASS in under and _same_class(under[CLASS], wanted))


def mapping(value: Any) -> Tree:
    """Return the value where it is a mapping, and an empty one else."""
    return value if isinstance(value, dict) else {}


def _same_class(one: Any, other: Any) -> bool:
    if one == other:
        return True
    names = [str(name).rsplit(".", 1) for name in (one, other)]
    if names[0][-1] != names[1][-1]:
        return False
    if min(map(len, names)) == 1:  # a class by its name alone
        return True
    try:
        return resolve_name(str(one)) is resolve_name(str(other))
    except Exception:  # whatever a module raises on import, it is said when the class is needed
        return False


def _chain(
    file: Path, content: dict[Path, tuple[Tree, dict[Key, str]]], shipped: list[Path], above: tuple[Path, ...] = ()
) -> list[Path]:
    """Return the resolved file after its bases; their content is read into `content`, those `shipped` are noted."""
    if file.resolve() in [other.resolve() for other in above]:
        raise RunError(f"{file}: inherits from itself by base, through {', '.join(map(str, above))}")
    named = f"as base by {above[-1]}" if above else "with -c"
    try:
        tree, places = read_yaml(file)
    except FileNotFoundError:
        raise RunError(f"{file}: no such file, named {named}") from None
    except OSError as error:
        raise RunError(f"{file}: cannot be read ({error.strerror}); a YAML file is expected") from None
    if not isinstance(tree, dict):
        raise RunError(f"{file}: holds no keys; a YAML file of module, data and trainer is expected")
    base = tree.pop("base", None)
    if not isinstance(base, str | None):
        raise RunError(f"{file}: base={base!r} must be the name of one file; a chain of bases gives more")
    before: list[Path] = []
    if base:
        found = find_experiment(Path(base), file.parent)
        shipped += [found] if found != file.parent / base else []
        before = _chain(found, content, shipped, (*above, file))
    content[file.resolve()] = tree, places
    return [*before, file.resolve()]
