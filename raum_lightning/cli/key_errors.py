"""What is wrong with a configuration that the parser refuses: keys, classes and values, each with its place.

jsonargparse stops at the first error, does not know the line, and answers a wrong argument of a class with all types
that the key could have had. Here the tree is compared with the keys of the parser and of each class that it names.
"""

import inspect
import re
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pkgutil import resolve_name
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from torch import nn

from raum_lightning.cli.command_line import SPEC, CommandLine
from raum_lightning.cli.config_inheritance import CLASS, Tree
from raum_lightning.cli.derived import LOGGER, RUN_FOLDER
from raum_lightning.cli.errors import first_line
from raum_lightning.cli.known_keys import KeyCheck, dotted, hint, lines
from raum_lightning.yaml_files import Key

# at these keys a class may be given by its name alone
BASES: dict[str, type] = {
    "trainer.logger": Logger,
    "trainer.callbacks": Callback,
    "module.network": nn.Module,
    "module.loss": nn.Module,
}
_TYPE = re.compile(r"Expected (?:an? )?(<class .+|typing\.Literal\[.+)")
SEARCHED = "a file of your own is found beside the YAML file or in the current folder"


def explain_configuration(parser: ArgumentParser, given: CommandLine, said: str) -> str:
    """Return what is wrong with files and options, one line each; what the parser `said` where nothing is found."""
    tree, places = given.together()
    known = _nested(parser.get_defaults().as_dict())
    check = _Check(places, known)
    found = [*check.keys(tree, known, ())] or [*check.classes(tree, ())]
    return lines(found or [check.refused(tree, said) or check.value(said)])


class _Check(KeyCheck):
    """Compares classes with their arguments too."""

    def arguments(self, value: Any, path: Key) -> Iterator[str]:
        """Yield a sentence for each class within `value` that is not there, and each argument that its class lacks."""
        for spec, where in _specs(value, path):
            kind, problem = _find(spec[CLASS], where)
            if problem:
                yield self.at((*where, CLASS), f"{dotted(where)}: {problem}")
            if kind is None:
                continue
            arguments = _class_parser(kind).get_defaults().as_dict()
            given = spec.get("init_args", {})
            if not isinstance(given, Mapping):
                yield self.at((*where, "init_args"), f"{dotted((*where, 'init_args'))} has no keys; leave it out")
                continue
            for name in given:
                if name not in arguments:
                    yield self.unknown((*where, "init_args", name), [*arguments], f"argument of {kind.__name__}")
            for name in spec.keys() - set(SPEC):
                yield self.unknown((*where, name), ["init_args"], f"key of a class (besides {', '.join(SPEC)})")

    def classes(self, value: Any, path: Key) -> Iterator[str]:
        """Yield a sentence for each class within `value` that does not take its arguments; the innermost of several."""
        for spec, where in _specs(value, path):
            inner = [*self.classes(spec.get("init_args"), (*where, "init_args"))]
            kind, _ = _find(spec[CLASS], where)
            if inner or kind is None:
                yield from inner
                continue
            arguments = dict(spec.get("init_args") or {})
            if where[:2] == LOGGER and "save_dir" in inspect.signature(kind).parameters:
                arguments.setdefault("save_dir", RUN_FOLDER)  # which need not be given
            try:
                _class_parser(kind).parse_object(arguments)
            except ArgumentError as error:
                key, reason = _reason(str(error))
                place = (*where, "init_args", *key.split(".")) if key else where
                needs = reason.replace("the following arguments are required:", "needs")
                yield self.at(place, f"{dotted(place)}{_given(spec, key)}: {kind.__name__}: {needs}")

    def refused(self, tree: Tree, said: str) -> str | None:
        """Return what a class said when it was made, such as that a package is missing, with its place."""
        problem = re.search(r"Problem with given class_path '([^']+)':\s*\n\s*(.+)", said)
        if problem is None:
            return None
        name = problem[1].rpartition(".")[2]
        places = [where for spec, where in _specs(tree, ()) if spec[CLASS].rpartition(".")[2] == name]
        at = places[0] if places else ()
        return self.at(at, ": ".join(filter(None, [dotted(at), name, first_line(problem[2])])))

    def value(self, said: str) -> str:
        """Return what the parser said of one value, with its place."""
        key, reason = _reason(said)
        return self.at(tuple(key.split(".")), f"{key}: {reason}") if key else reason


def _given(spec: Mapping[str, Any], key: str) -> str:
    arguments = spec.get("init_args") or {}
    return f"={arguments[key]!r}" if key in arguments else ""


def _nested(defaults: Mapping[str, Any]) -> Tree:
    """Return the known keys: a mapping for a group, None for a value or a class."""
    return {
        key: _nested(value) if isinstance(value, Mapping) and CLASS not in value else None
        for key, value in defaults.items()
    }


def _specs(value: Any, path: Key) -> Iterator[tuple[Tree, Key]]:
    """Yield the classes within a value, outermost first, but not those within their arguments; and where they stand."""
    if isinstance(value, Mapping):
        if CLASS in value:
            yield dict(value), path
            return
        for key, below in value.items():
            yield from _specs(below, (*path, key))
    elif isinstance(value, str) and _base(path):
        yield {CLASS: value}, path
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from _specs(below, (*path, number))


def _find(name: str, path: Key) -> tuple[Callable[..., Any] | None, str | None]:
    """Return the class of a name, or why there is none; neither where only the parser can tell."""
    module, _, last = name.rpartition(".")
    if not module:
        return _find_by_name(name, _base(path))
    try:
        return resolve_name(name), None
    except Exception as error:
        try:
            there = [key for key, value in vars(import_module(module)).items() if inspect.isclass(value)]
        except Exception:
            return None, f"{name} cannot be imported ({first_line(str(error))}); {SEARCHED}"
        return None, f"{module} has no class {last}{hint(last, there)}"


def _find_by_name(name: str, base: type | None) -> tuple[type | None, str | None]:
    kinds = list(_subclasses(base)) if base else []
    found = sorted({f"{kind.__module__}.{name}": kind for kind in kinds if kind.__name__ == name}.items())
    if len(found) > 1:
        return None, f"several classes are named {name}: give one of {', '.join(path for path, _ in found)}"
    if found or base is None:
        return (found[0][1] if found else None), None
    return None, f"there is no class {name}{hint(name, [kind.__name__ for kind in kinds])}"


def _base(path: Key) -> type | None:
    return BASES.get(".".join(part for part in path if isinstance(part, str)))


def _subclasses(base: type) -> Iterator[type]:
    kind: type
    for kind in base.__subclasses__():
        yield kind
        yield from _subclasses(kind)


def _class_parser(kind: Callable[..., Any]) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, fail_untyped=False)
    return parser


def _reason(said: str) -> tuple[str, str]:
    """Return the key that a message of jsonargparse is about, empty if it names none, and the reason in one line."""
    key, rest = "", said
    if said.startswith('Parser key "'):
        key, _, rest = said.removeprefix('Parser key "').partition('"')
    if wrong := re.fullmatch(r"\s*Expected an? (.+)\. Got value: (.*)\s*", rest.lstrip(":")):
        return key, f"{wrong[2]} is no {_plain(wrong[1])}"
    # of a union, what the type that nearly fits has to say
    told = [item for item in _items(rest) if not item.startswith(("Expected ", "Not a valid subclass of"))]
    if told:
        return key, _plain(first_line(": ".join(dict.fromkeys(told))))
    lines = [line.strip(" -") for line in rest.lstrip(":").splitlines() if line.strip(" -:")]
    types = [found[1] for line in lines if (found := _TYPE.match(line))]
    values = [line.removeprefix("Given value: ") for line in lines if line.startswith("Given value: ")]
    if types and values:  # each type of a union, and the value that is none of them
        return key, f"{values[-1]} is none of {', '.join(dict.fromkeys(map(_plain, types)))}"
    return key, _plain(first_line(": ".join(lines))).replace("Problem with given class_path", "class_path")


def _items(said: str) -> list[str]:
    """Return what each type of a union has to say, one line each, of a message of jsonargparse."""
    told = said.partition("Errors:\n")[2].partition("Given value")[0]
    start = re.match(r" *- ", told)
    parts = re.split(rf"^{re.escape(start[0])}", told, flags=re.MULTILINE) if start else []
    lines = [[line.strip(" -") for line in part.splitlines() if line.strip(" -")] for part in parts]
    return [": ".join(part) for part in lines if part]


def _plain(text: str) -> str:
    """Return a message of jsonargparse with `int` for `<class 'int'>`."""
    text = re.sub(r"typing\.Literal\[(.*?)\]", r"\1", text)
    return text.replace("<class '", "").replace("'>", "").replace("NoneType", "null")
