"""What pyproject.toml cannot say: `experiments/` lies in the wheel as raum_lightning/experiments, beside the code."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

PLACE = "raum_lightning.experiments"
folders = [path for path in Path("experiments").rglob("*") if path.is_dir() and path.name != "__pycache__"]

setup(
    packages=[
        *find_namespace_packages(include=["raum_lightning*"]),
        PLACE,
        *(".".join((PLACE, *path.parts[1:])) for path in sorted(folders)),
    ],
    package_dir={PLACE: "experiments"},
    package_data={"": ["*.yaml", "*.sbatch", "py.typed"]},
)
