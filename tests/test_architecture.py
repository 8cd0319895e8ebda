"""Who may import whom: the direction of the house's arrows."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "raum_lightning"
FILES = sorted(PACKAGE.rglob("*.py"))

# third-party package -> the places that may import it
ONLY = {
    "torchio": {"data"},
    "nibabel": {"cases", "phantom", "frame"},
    "wandb": {"loggers", "callbacks"},
    "matplotlib": {"figures"},
    "monai": set(),
}
# place -> the places of this package that it must not import
NEVER = {
    "labels": {"*"},
    "schedule": {"*"},
    "quiet": {"*"},
    "agreement": {"module", "data", "cases", "callbacks", "models", "trainer", "cli"},
    "run": {"*"},
    "partials": {"*"},
    "checkpoints": {"*"},
    "models": {"module", "data", "cases", "callbacks", "losses", "metrics", "inference"},
    "compiling": {"*"},
    "sharding": {"*"},
    "export": {"*"},
    "losses": {"module", "data", "cases", "callbacks", "models", "metrics"},
    "inference": {"module", "data", "cases", "callbacks", "models", "metrics"},
    "metrics": {"module", "data", "cases", "callbacks", "models", "inference"},
    "cases": {"module", "data", "callbacks", "models", "metrics", "inference", "discovery"},
    "discovery": {"module", "data", "callbacks", "models", "metrics", "inference"},
    "data": {"module", "callbacks", "models", "metrics", "inference", "trainer", "cli"},
    "frame": {"*"},
    "segmenter": {"callbacks", "models", "metrics", "figures", "trainer", "cli"},
    "evaluation": {"module", "data", "callbacks", "models", "inference", "trainer", "cli"},
    "module": {"data", "callbacks", "cases", "models", "trainer", "cli"},
    "callbacks": {"module", "trainer", "cli", "models"},
    "figures": {"module", "data", "callbacks", "models", "trainer", "cli"},
    "report": {"module", "data", "callbacks", "models", "trainer", "cli"},
}


def place(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(PACKAGE)) for file in FILES])
def test_imports_point_the_right_way(file: Path) -> None:
    for name in imported(file):
        top, *rest = name.split(".")
        if top in ONLY:
            assert place(file) in ONLY[top], f"{file} imports {name}"
        if top == "raum_lightning" and rest:
            forbidden = NEVER.get(place(file), set())
            inside = rest[0] == place(file)
            assert inside or not ({"*", rest[0]} & forbidden), f"{file} imports {name}"


def test_networks_and_losses_know_nothing_of_lightning() -> None:
    for file in FILES:
        if place(file) in {"models", "losses", "inference", "labels", "schedule"}:
            assert not any(name.split(".")[0] in {"lightning", "torchmetrics"} for name in imported(file)), file
