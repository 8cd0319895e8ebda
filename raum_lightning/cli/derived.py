"""What a configuration need not say: where a network is found, its channels and size, and loggers' folders.

A network may be called by its name alone, and its channels and size follow from the data. After jsonargparse a default
looks like a typed value: here the plain tree of files and options is looked at, before.
"""

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger
from torch import nn

from raum_lightning.cli.command_line import CommandLine
from raum_lightning.cli.config_inheritance import CLASS, Tree
from raum_lightning.data.datamodule import BratsDataModule
from raum_lightning.datasets import DataSet, presets
from raum_lightning.errors import ConfigError
from raum_lightning.inference.exported import SAFETENSORS, read_card
from raum_lightning.losses import DiceCELoss
from raum_lightning.runs.checkpoints import structure
from raum_lightning.training.data_fit import outputs_of
from raum_lightning.yaml_files import parse_value

SIZES = ("in_channels", "out_channels", "img_size")
NETWORK = "module.network.init_args"
ENSEMBLE = "raum_lightning.inference.ensemble.Ensemble"
LOGGER = ("trainer", "logger")
METRICS = "raum_lightning.loggers.CSVLogger"
# where a network is looked for that is called by its name alone, such as SegResNet
NETWORKS = ("raum_lightning.models", "monai.networks.nets")
# a logger's `save_dir` that means the folder of the run
RUN_FOLDER = "."


@dataclass
class Derived:
    """Files' tree and options with what was derived.

    Args:
        tree: Of the files.
        words: The options.
        network: The arguments of the network that were derived.
    """

    tree: Tree
    words: list[str]
    network: dict[str, Any] = field(default_factory=dict)


def spell_out(given: CommandLine) -> CommandLine:
    """Return files and options with the whole path of a network of this package or MONAI's that they call by its name.

    jsonargparse knows the names of classes that are imported, those that compute a network of ours fastest among them.
    """
    key = ("module", "network")
    keys = (key, (*key, CLASS), (*key, "help"))
    tree, options = deepcopy(given.files.tree), []
    module = _descend(tree, "module")
    module |= {name: _whole_path(value) for name, value in module.items() if name == key[-1]}
    for option in given.options:
        value = parse_value(option.value) if option.value and option.key in keys else None
        if (whole := _whole_path(value)) != value:
            text = whole if isinstance(whole, str) else json.dumps(whole)
            option = replace(option, value=text, words=(f"--{'.'.join(option.key)}={text}",))
        options.append(option)
    return CommandLine(replace(given.files, tree=tree), options)


def _whole_path(value: Any) -> Any:
    """Return the value of a network's key, a name or a mapping with one, with the whole path where that is known."""
    name, _ = _spec(value)
    if not isinstance(name, str) or not name.isidentifier():
        return value
    for module in NETWORKS:
        found = _resolve(f"{module}.{name}", nn.Module)
        if isinstance(found, type) and issubclass(found, nn.Module):
            return value | {CLASS: f"{module}.{name}"} if isinstance(value, dict) else f"{module}.{name}"
    return value


def derive(given: CommandLine) -> Derived:
    """Add the arguments of network and loggers that are not given."""
    if any(option.key[-1:] == ("help",) for option in given.options):  # of a class, after which nothing is parsed
        return Derived({}, given.words)
    together, _ = given.together()
    network = _network(together)
    derived = Derived(deepcopy(given.files.tree), given.words, network)
    if (loggers := _loggers(together)) is not None:
        _descend(derived.tree, LOGGER[0]).pop(LOGGER[1], None)
        others = [option for option in given.options if option.key[:2] != LOGGER]
        derived.words = [word for option in others for word in option.words]
        derived.words.append(f"--{'.'.join(LOGGER)}={json.dumps(loggers)}")
    derived.words += [f"--{NETWORK}.{name}={json.dumps(value)}" for name, value in network.items()]
    return derived


def add_derived(tree: Tree) -> None:
    """Add to a tree what `derive` adds to the words."""
    network, loggers = _network(tree), _loggers(tree)
    given = _descend(tree, "module").get("network")
    if network and not (isinstance(given, dict) and given.get("init_args", {}) is None):
        class_path, arguments = _spec(given)
        more = given if isinstance(given, dict) else {}
        tree["module"]["network"] = {**more, CLASS: class_path, "init_args": arguments | network}
    if loggers is not None:
        tree["trainer"]["logger"] = loggers if isinstance(tree["trainer"]["logger"], list) else loggers[0]


def take_trained(network: Any, names: Iterable[str], start: Path, verb: str) -> Any:
    """Return the network, class_path and init_args, as it takes what is trained in the file `start`.

    It gets the arguments in `names` as a file of its class has them; that of an ensemble replaces it.

    Raises:
        ConfigError: The file is an ensemble and the verb validate, whose loss is that of one network.
    """
    if start.suffix != SAFETENSORS or not start.is_file():
        _take_sizes(network, names, structure(start).get("hyper_parameters", {}).get("network") or {})
        return network
    _, made = read_card(start)
    if not isinstance(made, list):
        _take_sizes(network, names, made or {})
        return network
    if verb == "validate":
        raise ConfigError(f"{start}: is an ensemble, and validate is for one network; `raum test` scores it")
    # what the configuration names, its file may name
    given = {"path": str(start), "trust": [network.class_path.rpartition(".")[0]]}
    return Namespace({"class_path": ENSEMBLE, "init_args": Namespace(given)})  # type: ignore[no-untyped-call]


def _take_sizes(network: Any, names: Iterable[str], trained: Mapping[str, Any]) -> None:
    if trained.get("class_path") == network.class_path:
        arguments = trained.get("init_args", {})
        for name in set(names) & arguments.keys():
            network.init_args[name] = arguments[name]


def _network(tree: Tree) -> dict[str, Any]:
    """Return in_channels, out_channels and img_size, those that the network's class takes and that are not given."""
    module, data = _descend(tree, "module"), _descend(tree, "data")
    class_path, arguments = _spec(module.get("network"))
    taken = _parameters(class_path, nn.Module)
    missing = [name for name in SIZES if name in taken and arguments.get(name) is None]
    if not missing:
        return {}
    modalities, dataset = _data(data)
    outputs = outputs_of(dataset, _mode(module) or "labels")
    size = data.get("roi_size") or inspect.signature(BratsDataModule).parameters["roi_size"].default
    values = dict(zip(SIZES, (len(modalities), len(outputs), size), strict=True))
    return {name: values[name] for name in missing}


def _data(data: Tree) -> tuple[Sequence[str], DataSet]:
    """Return modalities and data set, of BraTS 2020 where it cannot be told what they are."""
    known: dict[str, Any] = {key: data[key] for key in ("modalities", "exclude") if data.get(key)}
    try:
        found = BratsDataModule(
            data.get("root") or "", dataset=data.get("edition") or data.get("dataset") or "auto", **known
        )
        return found.modalities, found.dataset
    except Exception:  # any value may be of any kind yet; what is wrong with it is said later, in the usual order
        fallback = presets()["brats2020"]
        given = known.get("modalities")
        return given if isinstance(given, list) else fallback.modalities, fallback


def _mode(module: Tree) -> str | None:
    loss, arguments = _spec(module.get("loss"))
    said = arguments.get("mode") if loss is None or _resolve(loss, nn.Module) is DiceCELoss else None
    return module.get("mode") or said


def _loggers(tree: Tree) -> list[Any] | None:
    """Return all loggers, where one of them has no folder and a default other than the run's; else None."""
    given = _descend(tree, LOGGER[0]).get(LOGGER[1])
    if not given or given is True:
        return None
    loggers, changed = deepcopy(given if isinstance(given, list) else [given]), False
    for number, logger in enumerate(loggers):
        class_path, arguments = _spec(logger)
        parameter = _parameters(class_path, Logger).get("save_dir")
        if parameter and arguments.get("save_dir") is None and parameter.default != RUN_FOLDER:
            spec = logger if isinstance(logger, dict) else {}
            loggers[number] = spec | {CLASS: class_path, "init_args": arguments | {"save_dir": RUN_FOLDER}}
            changed = True
    return loggers if changed else None


def _descend(tree: Tree, key: str) -> Tree:
    below = tree.get(key)
    return below if isinstance(below, dict) else {}


def _spec(value: Any) -> tuple[str | None, Tree]:
    """Return class path and arguments of either form of a class in YAML."""
    if isinstance(value, str):
        return value, {}
    tree = value if isinstance(value, dict) else {}
    return tree.get(CLASS), _descend(tree, "init_args")


def _parameters(class_path: str | None, kind: type) -> Mapping[str, inspect.Parameter]:
    found = _resolve(class_path, kind) if class_path else None
    return inspect.signature(found).parameters if isinstance(found, type) and issubclass(found, kind) else {}


def _resolve(class_path: str, kind: type) -> Any:
    """Return the class of a path, or of the name alone of one that is imported; None where there is none."""
    if "." not in class_path:
        return next((found for found in _subclasses(kind) if found.__name__ == class_path), None)
    try:
        return resolve_name(class_path)
    except Exception:  # whatever a module raises on import, it is said when the class is needed
        return None


def _subclasses(kind: Any) -> Iterator[Any]:
    for below in kind.__subclasses__():
        yield below
        yield from _subclasses(below)
