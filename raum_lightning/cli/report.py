"""`raum report`: one page of a run, to open offline."""

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="folder of the run: runs/<experiment>/<id>")
    parser.add_argument("--out", type=Path, help="page to write (default: report.html in the run's folder)")


def run(args: argparse.Namespace) -> int:
    """Write the page, say where, and return 0."""
    from raum_lightning.progress import progress_bar
    from raum_lightning.report import page

    out = args.out or args.run / "report.html"
    with progress_bar("drawing cases") as progress:
        content = page(args.run, progress=progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(content)
    print(f"{out}: {len(content) / 1e6:.1f} MB")
    return 0
