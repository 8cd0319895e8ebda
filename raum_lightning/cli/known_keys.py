"""The keys that a verb of the trainer knows, and what to say of one that it does not.

Before torch is imported, which takes seconds, the keys are read from the source of the classes that take them: a
mistyped one is answered at once. The arguments of the classes that a configuration names are checked later, by
`key_errors`, which imports them.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raum_lightning.cli.command_line import CommandLine, read_command_line
from raum_lightning.cli.config_inheritance import Tree
from raum_lightning.errors import ConfigError
from raum_lightning.yaml_files import Key

MODULE_CLASS = "module_class"
# keys without a group, besides the arguments of the trainer's method that are no objects
SINGLE = ("config", "seed_everything", MODULE_CLASS, "out", "ckpt_path", "print_config", "keys", "help")
OBJECTS = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}
# group -> package that can be found without importing it, file in it, and class
GROUPS = {
    "module": ("raum_lightning", "module.py", "SegmentationModule"),
    "data": ("raum_lightning", "data/datamodule.py", "BratsDataModule"),
    "run": ("raum_lightning", "runs/naming.py", "RunOptions"),
    "trainer": ("lightning", "pytorch/trainer/trainer.py", "Trainer"),
}
SHOWN = 20


def check_keys(verb: str, words: Sequence[str]) -> None:
    """Check the words of a verb and the keys of the files that they name.

    Raises:
        ConfigError: A word is no option, or a key is not known.
        RunError: A file is not there or has no keys.
    """
    given = read_command_line(words)
    tree, places = given.together()
    known = known_keys(verb)
    if tree.get(MODULE_CLASS):
        known["module"] = None  # a class of the user's own takes other arguments
    check = KeyCheck(places, known)
    if found := [*check.words(given, known), *check.keys(tree, known, ())]:
        raise ConfigError(lines(found))


def known_keys(verb: str) -> Tree:
    """Return the keys of a verb: for a group the mapping of its keys, for all else None."""
    groups: Tree = {group: dict.fromkeys(_arguments(*place, "__init__")) for group, place in GROUPS.items()}
    options = [name for name in _arguments(*GROUPS["trainer"], verb) if name not in OBJECTS]
    return dict.fromkeys([*SINGLE, *options]) | groups


def _arguments(package: str, file: str, name: str, method: str) -> list[str]:
    """Return the arguments of a class's method, or the fields of a dataclass, from the source."""
    spec = find_spec(package)
    assert spec and spec.origin
    source = ast.parse((Path(spec.origin).parent / file).read_bytes())
    kind = next(node for node in source.body if isinstance(node, ast.ClassDef) and node.name == name)
    for node in kind.body:
        if isinstance(node, ast.FunctionDef) and node.name == method:
            return [argument.arg for argument in (*node.args.args[1:], *node.args.kwonlyargs)]
    return [
        node.target.id for node in kind.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]


def lines(found: Sequence[str]) -> str:
    """Return the sentences, one a line, the first of them where they are many."""
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "\n".join([*found[:SHOWN], *more])


class KeyCheck:
    """Compares a tree with the `known` keys; `places` says of each key in it where it stands."""

    def __init__(self, places: Mapping[Key, str], known: Tree) -> None:
        self.places, self.known = places, [*leaves(known)]

    def words(self, given: CommandLine, known: Tree) -> Iterator[str]:
        """Yield a sentence for the first word that is no option, and each option without a value that is not known."""
        word = next((option.words[0] for option in given.options if not option.key), None)
        if word is not None:
            meant = f"; did you mean -{word}?" if word.startswith("-") else ""
            is_file = word.endswith((".yaml", ".yml"))
            yield f"{word} is no option" + (f"; a YAML file is given as -c {word}" if is_file else meant)
        for option in given.options:
            if option.key and option.value is None and not _knows(known, option.key):
                name = dotted(option.key)
                yield f"--{name} is no option{hint(name, self.known)}"

    def keys(self, tree: Tree, known: Tree, path: Key) -> Iterator[str]:
        """Yield a sentence for each key below `path` that is not known, and each group that has no keys."""
        for key, value in tree.items():
            here = (*path, key)
            if key not in known:
                yield self.unknown(here, self.known, "key")
            elif known[key] is None:
                yield from self.arguments(value, here)
            elif isinstance(value, Mapping):
                yield from self.keys(dict(value), known[key], here)
            elif value is None:
                yield self.at(here, f"{dotted(here)} has no keys; leave it out, and it keeps those of the base")
            else:
                yield self.at(here, f"{dotted(here)}={value} is no group of keys; a file is given with -c, or as base")

    def arguments(self, value: Any, path: Key) -> Iterator[str]:
        """Yield a sentence for each wrong argument of a class within `value`; none here, where no class is imported."""
        yield from ()

    def unknown(self, path: Key, known: Iterable[str], what: str) -> str:
        """Return the sentence for a key that is not among the known ones."""
        return self.at(path, f"{dotted(path)} is no {what}{hint(dotted(path), [*known])}")

    def at(self, path: Key, sentence: str) -> str:
        """Return the sentence after the place of the key, or of the nearest one above it that has one."""
        for length in range(len(path), 0, -1):
            if place := self.places.get(path[:length]):
                # an option names itself
                return sentence if place.startswith("--") else f"{place}: {sentence}"
        return sentence


def hint(wrong: str, known: Sequence[str]) -> str:
    """Return the question for the name that was probably meant, which follows a sentence; empty where none is near."""
    if wrong in known:
        return f"; in a file its parts stand below each other: {wrong.replace('.', ': {')}: ...{'}' * wrong.count('.')}"
    name = _nearest(wrong, known)
    return f"; did you mean {name}?" if name else ""


def _nearest(wrong: str, known: Sequence[str]) -> str | None:
    """Return the key that was probably meant: one whose last part is the same, or else one that is spelled alike."""
    last = wrong.rsplit(".", 1)[-1]
    same = [name for name in known if name.rsplit(".", 1)[-1] == last]
    if same:
        return get_close_matches(wrong, same, n=1, cutoff=0)[0]
    close = get_close_matches(wrong, known, n=1)
    if close or "." not in wrong:
        return close[0] if close else None
    ends = {name.rsplit(".", 1)[-1]: name for name in known}
    return next((ends[end] for end in get_close_matches(last, ends, n=1)), None)


def dotted(path: Key) -> str:
    """Return a key as it is typed, items of lists by their number."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _knows(known: Tree, key: Key) -> bool:
    """Return whether a key is known, or one above it whose value may have keys of its own."""
    for part in key:
        if part not in known:
            return False
        if known[part] is None:
            return True
        known = known[part]
    return True


def leaves(known: Tree, prefix: str = "") -> Iterator[str]:
    """Yield the keys, with the parts joined by dots; a group before its keys."""
    for key, below in known.items():
        yield f"{prefix}{key}"
        if below is not None:
            yield from leaves(below, f"{prefix}{key}.")
