"""What a key takes, by its annotation: the classes that may stand there, and its kind in words.

Whether a value is accepted is left to jsonargparse, but its messages list every type of a union with all that it says.
"""

import types
import typing
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from datetime import timedelta
from difflib import get_close_matches
from inspect import isclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jsonargparse import ArgumentParser

NUMBERS = {int: ("a whole number", "whole numbers"), float: ("a number", "numbers"), str: ("a word", "words")}
WORDS: dict[Any, str] = {
    bool: "true or false",
    type(None): "null",
    Path: "a path",
    timedelta: "a time",
    Any: "any value",
    torch.Tensor: "a list of numbers",
    Callable: "the path of a function",
}
LONGEST = 80


class Accepts:
    """Says whether a value may be given for an annotation; one of each is kept, as making it takes long."""

    kept: ClassVar[dict[Any, "Accepts"]] = {}

    @classmethod
    def of(cls, hint: Any) -> "Accepts":
        """Return the one of an annotation."""
        if hint not in cls.kept:
            cls.kept[hint] = cls(hint)
        return cls.kept[hint]

    def __init__(self, hint: Any) -> None:
        self.takes_null = bool({"null", WORDS[Any]} & {*_choices(hint)})
        self.parser = ArgumentParser(exit_on_error=False)
        self.parser.add_argument("--value", type=hint)

    def __call__(self, value: Any) -> bool:
        """Return whether jsonargparse takes `value`."""
        if value is None:  # which means for jsonargparse that nothing is given
            return self.takes_null
        try:
            self.parser.parse_object({"value": deepcopy(value)})
        except Exception:  # what a class that is looked up raises on import is said where it is looked for
            return False
        return True


def classes_of(hint: Any) -> Iterator[tuple[type, int]]:
    """Yield the classes of which one may stand at a key, and how many first arguments are passed by whoever makes it.

    A callable that returns a class, such as an optimiser without the parameters, is given as that class.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from classes_of(argument)
    elif origin is typing.Annotated:
        yield from classes_of(arguments[0])
    elif _is_callable(hint) and arguments:
        passed = len(arguments[0]) if isinstance(arguments[0], list) else 0
        yield from ((kind, passed) for kind, _ in classes_of(arguments[1]))
    elif isclass(hint) and origin is None and not _is_plain(hint):
        yield hint, 0


def item_of(hint: Any) -> Any:
    """Return the annotation of the items of a list that may stand at a key; None where none may."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return next((item for argument in arguments if (item := item_of(argument)) is not None), None)
    return arguments[0] if _is_list(origin) and len({*arguments} - {...}) == 1 else None


def in_words(hint: Any) -> str:
    """Return what is expected, such as "a whole number or null"."""
    choices = [*dict.fromkeys(_choices(hint))]
    if {"a whole number", "a number"} <= {*choices}:
        choices.remove("a whole number")
    return " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))


def nearest(hint: Any, value: Any) -> str | None:
    """Return the word of the annotation that was probably meant."""
    near = get_close_matches(str(value), [*dict.fromkeys(_choices(hint))], n=1)
    return near[0] if near else None


def shown(value: Any) -> str:
    """Return a value as it stands in a sentence, cut where it is long."""
    text = next((word for one, word in ((None, "null"), (True, "true"), (False, "false")) if value is one), repr(value))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def article(name: str) -> str:
    """Return a name with its article."""
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}"


def _choices(hint: Any) -> Iterator[str]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from _choices(argument)
    elif origin is typing.Annotated:
        yield from _choices(arguments[0])
    elif origin is typing.Literal:
        yield from map(str, arguments)
    elif _is_callable(hint) and arguments:
        yield from _choices(arguments[1])
    elif _is_list(origin):
        yield _list(arguments)
    elif hint in NUMBERS:
        yield NUMBERS[hint][0]
    elif hint in WORDS:
        yield from WORDS[hint].split(" or ")
    elif _is_mapping(hint):
        yield f"keys with {_plural(arguments[1])}" if arguments else "keys with values"
    elif isclass(hint):
        yield f"the class_path of {article(hint.__name__)}"
    else:
        yield str(hint).rpartition(".")[2]


def _list(items: tuple[Any, ...]) -> str:
    kinds = {*items} - {...}
    number = f"{len(items)} " if len(items) > 1 and ... not in items else ""
    if len(kinds) == 1:
        return f"a list of {number}{_plural(kinds.pop())}"
    return f"a list of {number}values" if kinds else "a list"


def _plural(hint: Any) -> str:
    if hint in NUMBERS:
        return NUMBERS[hint][1]
    names = [kind.__name__ for kind, _ in classes_of(hint)]
    return f"classes of {' or '.join(names)}" if names else f"values, each {in_words(hint)}"


def _is_callable(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.get_origin(Callable[[int], int])


def _is_list(origin: Any) -> bool:
    return isclass(origin) and issubclass(origin, typing.Iterable) and not _is_mapping(origin)


def _is_mapping(hint: Any) -> bool:
    kind = typing.get_origin(hint) or hint
    return isclass(kind) and issubclass(kind, Mapping)


def _is_plain(hint: type) -> bool:
    """Return whether a class is that of a value and not one to be named by its class_path."""
    return hint in NUMBERS or hint in WORDS or issubclass(hint, (int, float, str, Path, Mapping, list, tuple, set))
