"""Networks made from what a file says of them, without the file's choosing what code runs.

A checkpoint names the class of its network and the arguments. Of a stranger's file only classes of known packages are
imported, and only where every name in it is one of theirs: see `PACKAGES`. What else a user trusts they name.
"""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from enum import Enum
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from raum_lightning.errors import CheckpointError, ConfigError, UserError
from raum_lightning.inference.confined import Sketch, confined

# besides these, what the user names
PACKAGES = ("raum_lightning.models", "raum_lightning.losses", "monai.networks.nets")
# what Lightning is told to make a module with; a file that names another is refused
INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+", re.ASCII)
# arguments by which networks fetch weights, or read files that can hold code
_FETCHES = re.compile(r"pretrained|download", re.IGNORECASE)
_FILE = re.compile(r"(^|_)(checkpoint|ckpt|weights|file|filename|path|url|uri|folder|dir)$", re.IGNORECASE)
# of what is said of an error, in characters
_LONGEST = 200
_DEEPEST, _MOST = 20, 10_000
# of a whole number: by larger ones a constructor makes lists that fill the memory
_LARGEST = 1_000_000


def check(spec: Any, trust: Iterable[str] = (), where: str = "network") -> None:
    """Raise `CheckpointError` where `spec`, `{class_path, init_args}`, names code that is not trusted; import nothing.

    What is nested in the arguments is checked alike. `trust` holds names of modules and packages.
    """
    packages = (*PACKAGES, *_trusted(trust))
    if not isinstance(spec, Mapping) or "class_path" not in spec:
        raise CheckpointError(f"{where} is {_short(spec)} and not a class with its arguments")
    if sum(1 for _ in islice(_values(spec), _MOST + 1)) > _MOST:
        raise CheckpointError(f"{where} has more than {_MOST} arguments")
    _check(spec, packages, where, 0)


def check_instantiator(hyper_parameters: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` where a file asks for code of its own to make the module."""
    if (named := hyper_parameters.get("_instantiator", INSTANTIATOR)) != INSTANTIATOR:
        raise CheckpointError(f"_instantiator is {_short(named)}, which is not trusted to make a network")
    if "_class_path" in hyper_parameters:
        raise CheckpointError(
            f"_class_path is {_short(hyper_parameters['_class_path'])}, which no version of raum writes"
        )


def build(spec: Any, trust: Iterable[str] = (), where: str = "network") -> nn.Module:
    """Return the module that `spec` describes, checked as by `check`, with arguments of its own making.

    Raises:
        CheckpointError: It names what is not trusted, is no class of modules, or does not take the arguments.
    """
    trust = tuple(trust)
    check(spec, trust, where)
    return _build(spec, (*PACKAGES, *_trusted(trust)), where)


def check_shapes(spec: Any, weights: Mapping[str, Tensor], trust: Iterable[str] = ()) -> None:
    """Raise `CheckpointError` where a network's tensors are not those in `weights`, without making any large one."""
    with Sketch(elements=4 * sum(weight.numel() for weight in weights.values()), calls=100 * len(weights)):
        network = build(spec, trust)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if different := [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]:
        name = different[0]
        raise CheckpointError(
            f"its weights are not those of its network: {name} is {found.get(name, 'absent')} and should be "
            f"{wanted.get(name, 'absent')} ({len(different)} differ)"
        )


def _values(value: Any) -> Iterator[Any]:
    """Yield what is nested in a value, as deep as `check` allows or a little deeper."""
    level = [value]
    for _ in range(_DEEPEST + 2):
        below = []
        for one in level:
            items = one.values() if isinstance(one, Mapping) else one if isinstance(one, (list, tuple)) else ()
            for item in items:
                yield item
                below.append(item)
        level = below


def _check(value: Any, packages: Sequence[str], where: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise CheckpointError(f"{where} is nested too deeply")
    if isinstance(value, Mapping):
        if "dict_kwargs" in value:
            raise CheckpointError(f"{where} has dict_kwargs, whose arguments cannot be checked")
        if "class_path" in value:
            _check_class(value, packages, where)
        for key, item in value.items():
            if not isinstance(key, str):
                raise CheckpointError(f"{where} has the key {_short(key)}, which is not a valid name")
            _check(item, packages, f"{where}.{key}", depth + 1)
            if key != "class_path":
                _check_argument(key, item, where)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check(item, packages, f"{where}[{index}]", depth + 1)
    elif isinstance(value, str):
        if "://" in value:
            raise CheckpointError(f"{where} is {_short(value)}, an address: nothing is fetched for a file")
    elif isinstance(value, int) and abs(value) > _LARGEST:
        raise CheckpointError(f"{where} is {_short(value)}, larger than any argument of a network")
    elif not (value is None or isinstance(value, (int, float))):
        raise CheckpointError(f"{where} is a {type(value).__name__}, not a number, a word or a list of them")


def _check_class(spec: Mapping[str, Any], packages: Sequence[str], where: str) -> None:
    path = spec["class_path"]
    if not isinstance(path, str) or not _NAME.fullmatch(path):
        raise CheckpointError(f"{where}.class_path is {_short(path)}, which is not the name of a class")
    if not _within(path, packages):
        module = path.rpartition(".")[0]
        raise CheckpointError(
            f"{where} is {path}, which is not among {', '.join(PACKAGES)}: a file can name any code. If you know "
            f"it, trust its module with --trust {module} (trust=[{module!r}] in Python)"
        )
    if not isinstance(spec.get("init_args") or {}, Mapping) or set(spec) > {"class_path", "init_args"}:
        raise CheckpointError(f"{where} is not a class_path with init_args alone")


def _check_argument(name: str, value: Any, where: str) -> None:
    if value and (_FETCHES.search(name) or (_FILE.search(name) and isinstance(value, str))):
        raise CheckpointError(f"{where}.{name} is {_short(value)}: nothing is fetched or read for a file")


def _build(spec: Mapping[str, Any], packages: Sequence[str], where: str) -> nn.Module:
    path, given = spec["class_path"], spec.get("init_args") or {}
    cls = _class(path, packages, where)
    parameters = inspect.signature(cls).parameters
    for name, parameter in parameters.items():
        default = None if parameter.default is parameter.empty else parameter.default
        _check_argument(name, given.get(name, default), where)
    hints = _hints(cls)
    arguments = {
        name: _argument(value, hints.get(name), packages, f"{where}.init_args.{name}") for name, value in given.items()
    }
    try:
        with confined() if _within(path, PACKAGES) else nullcontext():
            return cls(**arguments)
    except UserError as error:
        raise CheckpointError(f"{where}: {_line(error)}") from error
    except Exception as error:  # a class may raise anything for arguments that are not meant for it
        raise CheckpointError(f"{where}: {path} cannot be made from its arguments ({_line(error)})") from error


def _class(path: str, packages: Sequence[str], where: str) -> type[nn.Module]:
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"{where}: there is no {path} ({_line(error)})") from error
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise CheckpointError(f"{where} is {path}, which is not a network class")
    if not _within(f"{cls.__module__}.{name}", packages):
        raise CheckpointError(f"{where} is {path}, which {cls.__module__} defines: that is not trusted")
    return cls


def _argument(value: Any, hint: Any, packages: Sequence[str], where: str) -> Any:
    """The value as the command line had it: nested classes made, and a tuple where the class asks for one."""
    if isinstance(value, Mapping):
        if "class_path" in value:
            return _build(value, packages, where)
        return {key: _argument(item, None, packages, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, str) and get_origin(hint) is type and value.startswith("torch.nn."):
        layer = getattr(torch.nn, value.removeprefix("torch.nn."), None)
        return layer if isinstance(layer, type) and issubclass(layer, nn.Module) else value
    if isinstance(value, str):  # the command line writes the name of an enumeration's member
        enums = [option for option in (hint, *get_args(hint)) if isinstance(option, type) and issubclass(option, Enum)]
        return next((enum[value] for enum in enums if value in enum.__members__), value)
    if not isinstance(value, (list, tuple)):
        return value
    if Tensor in (hint, *get_args(hint)):  # which YAML and checkpoints hold as a list
        return torch.tensor(value, dtype=torch.float32)
    options = [option for option in (hint, *get_args(hint)) if option is tuple or get_origin(option) is tuple]
    inner = next(iter(get_args(options[0])), None) if options else None
    items = [_argument(item, inner, packages, f"{where}[{index}]") for index, item in enumerate(value)]
    return tuple(items) if options else items


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls.__init__)  # type: ignore[misc] # a class, no instance
    except Exception:  # of names that only a type checker can see
        return {}


def _trusted(trust: Iterable[str]) -> tuple[str, ...]:
    names = (trust,) if isinstance(trust, str) else tuple(trust)
    names = tuple(_module_of(name) for name in names)
    for name in names:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
            raise ConfigError(f"trust={name!r} is not the name of a module; give one such as my_package.networks")
    return names


def _module_of(name: str) -> str:
    """Return the module of a name that may be that of a .py file, which then can be imported."""
    file = Path(name)
    if file.suffix != ".py":
        return name
    if not file.is_file():
        raise ConfigError(f"trust={name!r}: no such file")
    if (folder := str(file.resolve().parent)) not in sys.path:
        sys.path.append(folder)
    return file.stem


def _within(path: str, packages: Sequence[str]) -> bool:
    return any(path.startswith(f"{package}.") for package in packages)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _line(error: Exception) -> str:
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
