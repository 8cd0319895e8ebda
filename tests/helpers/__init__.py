"""What several tests stand on: where things lie, tiny cases, runs in processes of their own, a network by hand."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
DEBUG = str(EXPERIMENTS / "debug.yaml")
