"""What is wrong with a configuration that the parser refuses: keys, classes and values, each with its place.

jsonargparse stops at the first error, does not know the line, and answers a wrong argument of a class with all types
that the key could have had. Here the tree is compared with the keys of the parser and of each class that it names.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pkgutil import resolve_name
from typing import Any

from jsonargparse import ArgumentParser

from raum_lightning.cli.command_line import SPEC, CommandLine
from raum_lightning.cli.config_inheritance import CLASS, Tree
from raum_lightning.cli.derived import add_derived
from raum_lightning.cli.errors import first_line, made
from raum_lightning.cli.known_keys import KeyCheck, dotted, hint, lines
from raum_lightning.cli.type_words import Accepts, article, classes_of, in_words, item_of, nearest, shown
from raum_lightning.errors import ConfigError, UserError
from raum_lightning.yaml_files import Key

ARGUMENTS = "init_args"
SEARCHED = "a file of your own is found beside the YAML file or in the current folder"


def explain_configuration(parser: ArgumentParser, given: CommandLine, error: BaseException) -> str:
    """Return what is wrong with files and options, one line each; what `error` says where nothing is found."""
    tree, places = given.together()
    add_derived(tree)
    check = _Check(parser, places)
    return lines([*check.keys(tree, check.nested, ())] or [check.refused(tree, error)])


class _Check(KeyCheck):
    """Compares values and classes with what their keys take."""

    def __init__(self, parser: ArgumentParser, places: Mapping[Key, str]) -> None:
        self.hints = _hints(parser)
        self.defaults = parser.get_defaults().as_dict()
        self.nested = _nested(self.defaults)
        super().__init__(places, self.nested)

    def arguments(self, value: Any, path: Key) -> Iterator[str]:
        """Yield a sentence for each mistake in the value of a key."""
        if path and (annotation := self.hints.get(dotted(path))) is not None:
            yield from self.value(value, annotation, path)

    def value(self, value: Any, annotation: Any, path: Key) -> Iterator[str]:
        """Yield a sentence for each mistake in a value, the innermost of several."""
        if self.accepts(value, annotation, path):
            return
        item = item_of(annotation)
        if isinstance(value, list) and item is not None:
            found = [line for at, below in enumerate(value) for line in self.value(below, item, (*path, at))]
        else:
            found = [*self.spec(value, [*classes_of(annotation)], path)]
        yield from found or [self.unfit(value, annotation, path)]

    def accepts(self, value: Any, annotation: Any, path: Key) -> bool:
        """Return whether a value is of the right kind; what is typed may be a word that looks like a number."""
        if isinstance(value, Mapping) and value.get(ARGUMENTS, {}) is None:
            return False  # a key without a value in a file
        accepts = Accepts.of(annotation)
        typed = self.places.get(path, "").startswith("--") and not isinstance(value, (list, dict, type(None)))
        return accepts(value) or (typed and accepts(str(value)))

    def unfit(self, value: Any, annotation: Any, path: Key) -> str:
        """Return the sentence for a value of another kind."""
        meant = nearest(annotation, value) if isinstance(value, str) else None
        if not isinstance(value, (list, dict)) and Accepts.of(annotation)([value]):
            more = f"; write [{value}]"
        else:
            more = f"; did you mean {meant}?" if meant else ""
        return self.at(path, f"{dotted(path)}={shown(value)} must be {in_words(annotation)}{more}")

    def spec(self, value: Any, kinds: Sequence[tuple[type, int]], path: Key) -> Iterator[str]:
        """Yield a sentence for what is wrong with a class and its arguments; nothing for a value that names none."""
        if not kinds:
            return
        spec = {CLASS: value} if isinstance(value, str) else value
        if not isinstance(spec, Mapping):
            return
        if CLASS not in spec and not (spec := self.of_default(spec, path)):
            return
        if wrong := [name for name in spec if name not in SPEC]:
            more = f"is no key of a class ({', '.join(SPEC)}); an argument of the class stands below {ARGUMENTS}"
            yield from (self.at((*path, name), f"{dotted((*path, name))} {more}") for name in wrong)
            return
        kind, problem = _find(spec[CLASS], [kind for kind, _ in kinds])
        if problem:
            at = (*path, CLASS) if isinstance(value, Mapping) else path
            yield self.at(at, f"{dotted(path)}: {problem}")
        if kind is not None:
            passed = max(passed for base, passed in kinds)
            yield from self.init_args(kind, passed, spec.get(ARGUMENTS, {}), path)

    def of_default(self, spec: Mapping[str, Any], path: Key) -> Tree | None:
        """Return arguments alone with the class that the key has where none is given."""
        default: Any = self.defaults
        for part in path:
            default = default.get(part) if isinstance(default, Mapping) else None
        named = isinstance(default, Mapping) and CLASS in default and ARGUMENTS in spec
        return {CLASS: default[CLASS], **spec} if named else None

    def init_args(self, kind: type, passed: int, given: Any, path: Key) -> Iterator[str]:
        """Yield a sentence for each argument that a class lacks, needs, or takes no such value for."""
        where = (*path, ARGUMENTS)
        if not isinstance(given, Mapping):
            yield self.at(where, f"{dotted(where)} has no keys; leave it out")
            return
        try:
            parser = _class_parser(kind, passed)
        except Exception as error:  # jsonargparse cannot read the signature of some built-in classes
            yield self.at(path, f"{dotted(path)}: {kind.__name__} cannot be used here ({first_line(str(error))})")
            return
        hints = _hints(parser)
        unknown = [name for name in given if name not in hints]
        for name in unknown:
            yield self.unknown((*where, name), [*hints], f"argument of {kind.__name__}")
        for name in given:
            if hints.get(name) is not None:
                yield from self.value(given[name], hints[name], (*where, name))
        needs = [name for name in _required(parser) if name not in given]
        if needs and not unknown:
            them = "it" if len(needs) == 1 else "them"
            said = f"{kind.__name__} needs {', '.join(needs)}; give {them} below {ARGUMENTS}"
            yield self.at(path, f"{dotted(path)}: {said}")

    def refused(self, tree: Tree, error: BaseException) -> str:
        """Return what a class said when it was made, such as that a package is missing, with its place."""
        said = str(error)
        if isinstance(error, UserError) and not isinstance(error, ConfigError):
            return said
        problem = re.search(r"Problem with given class_path '([^']+)':\s*\n\s*(.+)", said)
        paths = [problem[1]] if problem else re.findall(r"class_path='([^']+)'", said.partition("Given value: ")[2])
        names = {path.rpartition(".")[2] for path in paths} or {*made(error.__traceback__)}
        told = _told(said)  # of a union, what the type that nearly fits has to say
        reason = said if isinstance(error, UserError) else first_line(problem[2] if problem else told or said)
        specs = [(spec, path) for spec, path in _specs(tree, ()) if spec[CLASS].rpartition(".")[2] in names]
        key = re.match(r'Parser key "(.+?)":\s*', said)
        if specs and not reason.startswith((dotted(specs[0][1]), "module.", "data.")) and not _names_file(reason):
            spec, path = specs[0]
            place = self.named(reason, spec, path) if len(specs) == 1 else path
            return self.at(place, f"{dotted(place)}: {spec[CLASS].rpartition('.')[2]}: {reason}")
        return self.at(tuple(key[1].split(".")), f"{key[1]}: {first_line(said[key.end() :])}") if key else reason

    def named(self, reason: str, spec: Tree, path: Key) -> Key:
        """Return the place of the argument that a reason names, or that of its class."""
        given = dict(spec.get(ARGUMENTS) or {})
        typed = [key for key in given if self.places.get((*path, ARGUMENTS, key), "").startswith("--")]
        key = next((key for key in [*typed, *given] if re.search(rf"\b{re.escape(key)}\b", reason)), None)
        return (*path, ARGUMENTS, key) if key else path


def _told(said: str) -> str | None:
    """Return the first thing that a type of a union says besides that it is another one."""
    lines = [line.strip().removeprefix("- ") for line in said.partition("Errors:\n")[2].splitlines()]
    others = (
        "Expected ",
        "Not a valid subclass",
        "Subclass types expect",
        "a class path",
        "a dict with",
        "Given value",
    )
    return next((line for line in lines if line and not line.startswith(others)), None)


def _names_file(reason: str) -> bool:
    """Return whether a sentence begins with the file that it is about."""
    return reason.startswith(("/", ".")) or reason.partition(": ")[0].endswith((".csv", ".yaml", ".json"))


def _hints(parser: ArgumentParser) -> dict[str, Any]:
    """Return the annotation of each key of a parser; None where it has none."""
    # argparse has no other list of them
    actions = {action.dest: getattr(action, "_typehint", None) or action.type for action in parser._actions}
    return {key: annotation for key, annotation in actions.items() if key != "help" and not key.endswith(".help")}


def _required(parser: ArgumentParser) -> list[str]:
    return [action.dest for action in parser._actions if action.required]


def _nested(defaults: Mapping[str, Any]) -> Tree:
    """Return the known keys: a mapping for a group, None for a value or a class."""
    return {
        key: _nested(value) if isinstance(value, Mapping) and CLASS not in value else None
        for key, value in defaults.items()
    }


def _specs(value: Any, path: Key) -> Iterator[tuple[Tree, Key]]:
    """Yield the classes within a value, innermost first, and where they stand."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            if key != CLASS:
                yield from _specs(below, (*path, key))
        if isinstance(value.get(CLASS), str):
            yield dict(value), path
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from _specs(below, (*path, number))
    elif isinstance(value, str):
        yield {CLASS: value}, path


def _find(name: Any, bases: Sequence[type]) -> tuple[type | None, str | None]:
    """Return the class of a name, or why there is none; neither where the key takes words too, or a function."""
    wanted = " or ".join(base.__name__ for base in bases if not {*base.__mro__[1:]} & {*bases})
    if not isinstance(name, str):
        return None, f"{CLASS}={shown(name)} must be the path of {article(wanted)}"
    if "." not in name:
        return _find_by_name(name, bases)
    module, _, last = name.rpartition(".")
    try:
        found = resolve_name(name)
    except Exception as error:
        try:
            there = [key for key, value in vars(import_module(module)).items() if inspect.isclass(value)]
        except Exception:
            return None, f"{name} cannot be imported ({first_line(str(error))}); {SEARCHED}"
        return None, f"{module} has no class {last}{hint(last, there)}"
    if isinstance(found, type) and issubclass(found, tuple(bases)):
        return found, None
    # a function or a method may make one
    return None, f"{name} is no {wanted}; give a class that inherits from it" if isinstance(found, type) else None


def _find_by_name(name: str, bases: Sequence[type]) -> tuple[type | None, str | None]:
    kinds = {kind for base in bases for kind in (base, *_subclasses(base)) if not kind.__name__.startswith("_")}
    found = sorted({f"{kind.__module__}.{name}": kind for kind in kinds if kind.__name__ == name}.items())
    if len(found) > 1:
        return None, f"several classes are named {name}: give one of {', '.join(path for path, _ in found)}"
    if found:
        return found[0][1], None
    return None, f"there is no class {name}{hint(name, sorted({kind.__name__ for kind in kinds}))}"


def _subclasses(base: type) -> Iterator[type]:
    kind: type
    for kind in base.__subclasses__():
        yield kind
        yield from _subclasses(kind)


def _class_parser(kind: Callable[..., Any], passed: int) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, fail_untyped=False, skip={passed} if passed else None)
    return parser
