"""The command line over the files: what is typed wins, wherever it stands.

Options are parsed by jsonargparse. Here only those of `-c` are taken out, and what an option replaces as a whole (a
class by another, a list) is removed from the files' tree, from which jsonargparse would else keep arguments.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raum_lightning.cli.config_inheritance import (
    CLASS,
    LENGTHS,
    Configuration,
    Tree,
    forget_length,
    mapping,
    merge,
    read_files,
    replaces,
)
from raum_lightning.errors import RunError
from raum_lightning.yaml_files import Key, parse_value

SPEC = (CLASS, "init_args", "dict_kwargs")


@dataclass(frozen=True)
class Option:
    """One option: its words as they were typed, its key, and its value (None without one)."""

    words: tuple[str, ...]
    key: tuple[str, ...] = ()
    value: str | None = None
    appends: bool = False


@dataclass
class CommandLine:
    """What files and options say: the files' tree without what an option replaces, and the options."""

    files: Configuration
    options: list[Option]

    @property
    def words(self) -> list[str]:
        """The options as typed."""
        return [word for option in self.options for word in option.words]

    def together(self) -> tuple[Tree, dict[Key, str]]:
        """Return the tree with the options in it, as far as can be told without types, and where each key stands."""
        tree, places = deepcopy(self.files.tree), dict(self.files.places)
        for option in self.options:
            if option.key and option.value is not None:
                place = _assign(tree, option)
                if place is not None:
                    places = {key: where for key, where in places.items() if key[: len(place)] != place}
                    places[place] = f"--{'.'.join(option.key)}"
        return tree, places

    def place(self, *key: str) -> str | None:
        """Return where the value of a key was given, an option or `FILE, line N`; None where it was not."""
        tree, places = self.together()
        for part in key:
            if part not in mapping(tree):
                return None
            tree = tree[part]
        return next((places[key[:length]] for length in range(len(key), 0, -1) if key[:length] in places), None)


def read_command_line(args: Sequence[str]) -> CommandLine:
    """Return files and options of the words after a verb.

    Raises:
        RunError: `--base` is given as an option, or a file cannot be used.
        ConfigError: A file is not valid YAML or has a key twice.
    """
    files, options = [], []
    for option in _options(args):
        if option.key == ("config",):
            files.append(Path(option.value or ""))
        elif option.key == ("base",):
            raise RunError("--base: `base` is a key of YAML files; several files are given as -c FIRST -c SECOND")
        else:
            options.append(option)
    configuration = read_files(files)
    typed: Tree = {}
    for option in options:
        if option.key[:1] == ("trainer",) and option.value is not None:
            _assign(typed, option)
    trainer = mapping(typed.get("trainer"))
    forget_length(configuration.tree, {key: trainer[key] for key in LENGTHS if key in trainer})
    kept: list[Option] = []
    for option in options:
        replaces = _prune(configuration.tree, option) or any(_is_other_class(option, other) for other in kept)
        kept = _with(kept, option, replaces=replaces)
    return CommandLine(configuration, kept)


def _options(args: Sequence[str]) -> Iterator[Option]:
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word in ("-c", "--config"):
            if not rest:
                raise RunError(f"{word} needs the name of a YAML file")
            yield Option((), ("config",), rest.pop(0))
        elif word.startswith("-c=") or (word.startswith("-c") and word.endswith((".yaml", ".yml"))):
            yield Option((), ("config",), word[2:].removeprefix("="))
        elif not word.startswith("--"):
            yield Option((word,))
        else:
            name, equals, value = word[2:].partition("=")
            key = tuple(name.removesuffix("+").split("."))
            if equals:
                yield Option((word,), key, value, name.endswith("+"))
            elif rest and not rest[0].startswith("--") and rest[0] not in ("-c", "-h"):
                yield Option((word, rest[0]), key, rest.pop(0), name.endswith("+"))
            else:
                yield Option((word,), key)


def _with(kept: list[Option], option: Option, *, replaces: bool) -> list[Option]:
    """Return the options and one more that is typed after them.

    What replaces another value drops the options of before that are of that value. The first class of a key takes the
    arguments that were typed before it: it is put before them, where jsonargparse would drop them.
    """
    key = option.key[:-1] if option.key[-1:] == (CLASS,) else option.key
    value = None if option.value is None or option.appends else parse_value(option.value)
    below = [other for other in kept if key and other.key[: len(key)] == key]
    if (isinstance(value, dict) and CLASS not in value) or not below:  # a mapping is merged
        return [*kept, option]
    named = any(other.key in (key, (*key, CLASS)) for other in below)
    if isinstance(value, (str, dict)) and not named:
        first = kept.index(below[0])
        return [*kept[:first], option, *kept[first:]]
    if replaces:
        return [*(other for other in kept if other not in below), option]
    return [*kept, option]


def _is_other_class(option: Option, other: Option) -> bool:
    return option.key == other.key and not option.appends and option.value != other.value


def _prune(tree: Tree, option: Option) -> bool:
    """Remove from the files' tree what the option replaces as a whole; return whether there was any such thing."""
    if option.appends or option.value is None:
        return False
    key = option.key[:-1] if option.key[-1] == CLASS else option.key
    parent, last = _descend(tree, key), key[-1]
    if parent is None or last not in parent:
        return False
    return _remove(parent, last, parse_value(option.value))


def _remove(parent: Tree, key: str, value: Any) -> bool:
    under = parent[key]
    if isinstance(under, dict) and isinstance(value, dict) and not replaces(under, value):
        removed = [_remove(under, name, value[name]) for name in value if name in under and name != CLASS]
        return any(removed)
    if isinstance(under, dict) and isinstance(value, str) and not replaces(under, value):
        return False
    del parent[key]
    return True


def _descend(tree: Any, key: Sequence[str], *, create: bool = False) -> Any:
    """Return the mapping that holds the last part of a key, or None; `init_args` may be left out of the key.

    Of a list, options mean the last item. Where asked to `create`, mappings on the way that are not there are made.
    """
    at = tree
    for place, part in enumerate(key):
        if isinstance(at, list) and at:
            if create and isinstance(at[-1], str):
                at[-1] = {CLASS: at[-1]}
            at = at[-1]
        if CLASS in mapping(at) and part not in SPEC:
            at = at.setdefault("init_args", {}) if create else at.get("init_args")
        if place == len(key) - 1 or not isinstance(at, dict):
            break
        if create and isinstance(at.get(part), str):
            at[part] = {CLASS: at[part]}
        at = at.setdefault(part, {}) if create else at.get(part)
    return at if isinstance(at, dict) else None


def _assign(tree: Tree, option: Option) -> Key | None:
    """Put an option's value into the tree; return its key there, None where the tree has no place for it."""
    parent, last = _descend(tree, option.key, create=True), option.key[-1]
    if parent is None:
        return None
    value = parse_value(option.value or "")
    if option.appends:
        before = parent.get(last)
        parent[last] = [*(before if isinstance(before, list) else [before] if before else []), value]
    else:
        parent[last] = merge(parent.get(last), value)
    return _path_of(tree, parent, last)


def _path_of(at: Any, parent: Any, last: str, path: Key = ()) -> Key | None:
    if at is parent:
        return (*path, last)
    items = at.items() if isinstance(at, dict) else enumerate(at) if isinstance(at, list) else ()
    return next((found for key, value in items if (found := _path_of(value, parent, last, (*path, key)))), None)
