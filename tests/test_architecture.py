"""Who may import whom: every arrow of the house, and no other. See the layers in CONTRIBUTING.md."""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from raum_lightning.datasets import presets

PACKAGE = Path(__file__).parents[1] / "raum_lightning"
TREES = {file: ast.parse(file.read_text()) for file in sorted(PACKAGE.rglob("*.py"))}

# what stands on nothing of this package but the errors, and what everyone may stand on
FOUNDATION = {
    "errors",
    "atomic",
    "machine",
    "progress",
    "yaml_files",
    "json_files",
    "signals",
    "datasets",
    "labels",
    "geometry",
}
# room -> the other rooms that it may import, besides the foundation
ALLOWED: dict[str, set[str]] = {
    **{name: set() for name in FOUNDATION},
    "losses": set(),
    "models": set(),
    "phantom": set(),
    "loggers": {"runs"},
    "cases": set(),
    "discovery": {"cases"},  # two names of former places, for a release
    "splits": {"cases"},
    "data": {"cases"},
    "metrics": {"cases"},
    "postprocess": {"metrics", "cases"},
    "runs": {"cases"},
    "inference": {"postprocess", "metrics", "models", "cases", "data", "runs"},
    "figures": {"metrics", "cases", "data"},
    "training": {"figures", "inference", "postprocess", "metrics", "data", "runs", "cases", "losses"},
    "module": {"postprocess", "training", "inference", "metrics", "runs", "losses", "models"},
    "studies": {"loggers", "training", "figures", "inference", "postprocess", "metrics", "data", "runs", "cases"},
    "notebook": {"figures", "inference"},
    "report": {"figures", "metrics", "data", "runs", "cases"},
    "cli": {
        "report",
        "studies",
        "module",
        "training",
        "loggers",
        "figures",
        "inference",
        "metrics",
        "data",
        "runs",
        "cases",
    }
    | {"phantom", "losses", "models", "postprocess"},
}
# third-party package -> the only rooms that may import it
ONLY = {
    "torchio": {"data"},
    "SimpleITK": {"cases"},
    "pydicom": {"cases"},
    "highdicom": {"cases"},
    "brainles_preprocessing": {"cases"},
    "nibabel": {"cases", "phantom", "geometry"},
    "wandb": {"loggers", "training"},
    "matplotlib": {"figures"},
    "monai": set(),
}
PURE = {
    "models",
    "losses",
    "labels",
    "datasets",
    "geometry",
    "errors",
    "inference/blending",
    "inference/sliding_window",
    "inference/windows",
    "training/schedule",
}


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names |= {f"{module}.{alias.name}" for alias in node.names} if module == "raum_lightning" else {module}
    return names - {"raum_lightning.__version__"}


def forbidden(here: str, name: str) -> bool:
    """Whether a room may not import a module; a room that ALLOWED does not name may import nothing of the package."""
    top, *rest = name.split(".")
    if top in ONLY:
        return here not in ONLY[top]
    ours = top == "raum_lightning" and bool(rest) and here not in ("__init__", "__main__")
    return ours and rest[0] not in {here, *FOUNDATION, *ALLOWED.get(here, ())}


def test_imports_are_allowed() -> None:
    assert len(TREES) > 100
    assert not [f"{file} imports {name}" for file in TREES for name in imported(file) if forbidden(room(file), name)]


def test_an_import_that_is_not_allowed_is_noticed() -> None:
    assert forbidden("data", "monai.losses") and forbidden("cases", "raum_lightning.module")
    assert forbidden("a_new_room", "raum_lightning.cases.case")
    assert not forbidden("data", "torchio") and not forbidden("module", "raum_lightning.losses")


def test_arrows_make_no_circle() -> None:
    order: list[str] = []
    waiting = {name: set(others) for name, others in ALLOWED.items()}
    while waiting:
        free = [name for name, others in waiting.items() if others <= set(order)]
        assert free, f"a circle among {sorted(waiting)}"
        order += free
        for name in free:
            del waiting[name]


def test_what_is_pure_knows_nothing_of_lightning() -> None:
    places = {file: str(file.relative_to(PACKAGE).with_suffix("")) for file in TREES}
    pure = [file for file, place in places.items() if any(f"{place}/".startswith(f"{name}/") for name in PURE)]
    assert len(pure) >= len(PURE)
    tops = [(file, name.split(".")[0]) for file in pure for name in imported(file)]
    assert not [(file, top) for file, top in tops if top in {"lightning", "torchmetrics"}]


def label_values(tree: ast.AST, known: set[str]) -> Iterator[str]:
    """Yield where a label value is given: beside the name of a class, or compared with a mask."""
    arrays = re.compile(r"(label|mask|seg|segmentation|target|reference|prediction)s?")
    for node in ast.walk(tree):
        pairs: list[tuple[ast.AST | str | None, ...]] = []
        if isinstance(node, ast.Dict):
            pairs = list(zip(node.keys, node.values, strict=True))
        elif isinstance(node, ast.Tuple | ast.List | ast.Set):
            pairs = list(itertools.pairwise(node.elts))
        elif isinstance(node, ast.keyword):
            pairs = [(node.arg, node.value)]
        elif isinstance(node, ast.Assign):
            pairs = [(target.id, node.value) for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq | ast.In):
            sides = [node.left, *node.comparators]
            named = [getattr(side, "id", getattr(side, "attr", "")) for side in sides]
            if any(arrays.fullmatch(name.lower()) for name in named):
                numbers = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
                if any(isinstance(number, int) and number > 0 for number in numbers):
                    yield ast.unparse(node)
        for pair in pairs:
            values = [part.value if isinstance(part, ast.Constant) else part for part in pair]
            if any(value in known for value in values if isinstance(value, str)) and any(
                isinstance(value, int) and not isinstance(value, bool) for value in values
            ):
                yield ast.unparse(node)


KNOWN = {name for preset in presets().values() for name in preset.classes[1:]}


def test_label_values_are_known_to_data_sets_alone() -> None:
    others = [(file, tree) for file, tree in TREES.items() if room(file) != "datasets"]
    assert not [(file, value) for file, tree in others for value in label_values(tree, KNOWN)]


@pytest.mark.parametrize(
    "line",
    [
        "{4: 'ET'}",
        "{'ET': 4}",
        "[('ET', 4)]",
        "dict(ET=4)",
        "ET = 4",
        "mask == 4",
        "case.label != 3",
        "labels in (1, 4)",
    ],
)
def test_a_label_value_is_noticed(line: str) -> None:
    assert list(label_values(ast.parse(line), KNOWN))
