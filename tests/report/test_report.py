"""The page of a run: complete, sorted, and in need of nothing else."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from statistics import median

import pytest
import yaml

from raum_lightning.cli import main
from raum_lightning.datasets import presets
from raum_lightning.errors import RunError
from raum_lightning.figures.curves import MOST_POINTS, STYLES, chart, thin, ticks
from raum_lightning.report import page
from raum_lightning.report.style import STYLE
from tests.helpers.cases import write_brats

CASES = [f"BraTS20_Training_{number:03d}" for number in range(1, 6)]
# worst, best, and 003 in the middle
DICE = dict(zip(CASES, (0.31, 0.93, 0.62, 0.81, 0.44), strict=True))
# the text of a link to a mask
ARROW = "\N{DOWNWARDS ARROW}"
VOID = {"meta", "img", "path"}


class Reader(HTMLParser):
    """Checks that tags are closed, and collects text of table headings, images and whatever names a resource."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[str] = []
        self.images: list[str] = []
        self.resources: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        named = dict(attrs)
        self.resources += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]
        if tag == "img":
            self.images.append(named["alt"] or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        in_head = ["tr", "th"] in (self.open[-2:], self.open[-3:-1])
        if in_head and "tbody" in self.open and data.strip() not in ("", ARROW):
            self.rows.append(data.strip())

    @property
    def sheets(self) -> list[str]:
        """The ids of cases that are drawn, without the slices below each."""
        return [re.findall(r"BraTS\w+", alt)[0] for alt in self.images if not alt.startswith("Axial")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose five test cases are scored and segmented; not to be changed."""
    here = tmp_path_factory.mktemp("report")
    folder = here / "runs" / "tiny" / "one"
    (folder / "test").mkdir(parents=True)
    (folder / "predictions").mkdir()
    config = {
        "module": {"network": {"class_path": "raum_lightning.models.UNETR"}},
        "data": {"root": str(here / "cases"), "edition": "auto", "modalities": ["flair", "t1ce"]},
        "run": {"experiment": "tiny <b>", "id": "one"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "splits.json").write_text(json.dumps({"train": ["a", "b"], "val": ["c"], "test": CASES}))
    (folder / "metrics.csv").write_text(
        "step,lr,train/loss,val/loss,val/dice_wt,val/dice_tc,val/dice_et,val/dice_mean\n"
        "9,0.1,2.5,,,,,\n9,,,1.5,0.4,0.3,0.2,0.3\n19,0.2,nan,,,,,\n29,0.1,1.25,1.0,0.9,0.8,0.7,0.8125\n"
    )
    with (folder / "test" / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "dice_wt", "dice_tc", "dice_et", "dice_mean", "hd95_wt"])
        writer.writerows([case, dice, dice, dice, dice, 7.5] for case, dice in DICE.items())
    for number, case in enumerate(CASES):
        source = write_brats(here / "cases", case, presets()["brats2020"], seed=number)
        (folder / "predictions" / f"{case}.nii.gz").write_bytes((source / f"{case}_seg.nii.gz").read_bytes())
    return folder


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return page(run)


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The run to take something from."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


@pytest.mark.slow
def test_cases_are_sorted_and_three_of_them_drawn(text: str) -> None:
    reader = Reader(text)
    assert reader.rows == sorted(CASES, key=lambda case: -DICE[case])
    assert reader.sheets == [CASES[1], CASES[2], CASES[0]]
    assert f">Median: {CASES[2]}, mean Dice 0.620</h3>" in text
    foot = text.split("<tfoot>")[1].split("</tfoot>")[0]
    assert re.findall(r"<th>(\w+)</th><td[^>]*>([\d.]+)", foot) == [("mean", "0.622"), ("median", "0.620")]


def test_the_page_needs_nothing_but_itself(text: str) -> None:
    reader = Reader(text)
    assert all(value.startswith(("data:image/", "#case-", "./predictions/")) for value in reader.resources)
    rest = re.sub(r"data:image/\w+;base64,[^\"]+", "", text)
    assert not re.search(r"https?:|//|url\(|@import|<script|<link", rest)
    assert "default-src 'none'" in text


def test_the_page_shows_curves_configuration_and_commands(run: Path, text: str) -> None:
    assert "best validation Dice</small><strong>0.812</strong><small>mean of WT, TC, ET at step 29" in text
    assert "<title>train: 1.25 at step 29</title>" in text and text.count("<polyline") == 7
    assert "UNETR on flair, t1ce &middot; 2 train, 1 val, 5 test cases" in text
    assert "<h1>tiny &lt;b&gt; / one</h1>" in text and "class_path: raum_lightning.models.UNETR" in text
    assert f"lightning fit -c {run}/config.yaml --run.id one-again\n" in text
    assert f"lightning test -c {run}/config.yaml --ckpt_path {run}/checkpoints/" in text


@pytest.mark.slow
def test_what_is_missing_is_named_with_the_command_that_makes_it(copy: Path) -> None:
    (copy / "predictions" / f"{CASES[0]}.nii.gz").unlink()
    text = page(copy)
    assert f"Not segmented yet: {CASES[0]}." in text and "lightning predict" in text
    assert Reader(text).sheets == [CASES[1], CASES[2]]
    for case in CASES[1:3]:
        (copy / "predictions" / f"{case}.nii.gz").unlink()
    text = page(copy)  # one that is neither best, median nor worst, as after `make fit`
    assert f">Segmented: {CASES[3]}, mean Dice 0.810</h3>" in text and len(Reader(text).sheets) == 1
    for case in CASES[3:]:
        (copy / "predictions" / f"{case}.nii.gz").unlink()
    assert not Reader(page(copy)).images
    (copy / "test" / "cases.csv").unlink()
    (copy / "metrics.csv").unlink()
    text = page(copy)
    assert "not scored yet" in text and "no metrics.csv" in text and not Reader(text).rows
    splits = json.loads((copy / "splits.json").read_text())
    (copy / "splits.json").write_text(json.dumps(splits | {"test": []}))
    text = page(copy)
    assert text.count("holds out no cases for a test") == 2 and "not scored yet" not in text


def test_lines_differ_in_more_than_colour() -> None:
    looks = re.findall(r"\.c(\d) \{ --c: var\(--c\1\);?(.*?) \}", STYLE)
    assert len(looks) == STYLES == len({look for _, look in looks})


@pytest.mark.slow
def test_the_page_says_when_on_what_and_with_which_versions(copy: Path) -> None:
    assert "started" not in page(copy) and "HD95 7.5 mm" in page(copy) and "HD95 was not" not in page(copy)
    machine = {"gpus": [], "cpu": "a <b>CPU", "cores": 2}
    start = {"started": "2026-11-25T10:00:00+00:00", "commit": "abc-dirty", "versions": {"torch": "2.13"}}
    later = start | {"started": "2026-11-26T10:00:00+00:00", "hardware": machine}
    (copy / "provenance.json").write_text(json.dumps([start, later]))
    shown = page(copy)
    said = "started 2026-11-25 10:00 UTC and 2026-11-26 10:00 UTC &middot; a &lt;b&gt;CPU, 2 cores &middot; "
    assert f"<p>{said}torch 2.13 &middot; commit abc-dirty</p>" in shown
    (copy / "provenance.json").write_text("[{}, 3]")
    assert "started" in page(copy)
    (copy / "test" / "cases.csv").write_text("case,dice_wt,dice_tc,dice_et,dice_mean\na,1,1,1,1\n")
    assert "HD95 was not computed" in page(copy) and "[dice, precision, recall, hd95]" in page(copy)


@pytest.mark.slow
def test_names_from_a_run_are_shown_as_text(copy: Path) -> None:
    """A class path, a modality and a part of the split are strings of a file that somebody else may have written."""
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["module"]["network"]["class_path"] = "a.<b>Net"
    config["data"]["modalities"] = ["<i>flair"]
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    (copy / "splits.json").write_text('{"<u>train": ["one"], "val": [], "test": []}')
    shown = page(copy)
    assert "&lt;b&gt;Net on &lt;i&gt;flair" in shown and "1 &lt;u&gt;train" in shown
    assert not any(tag in shown for tag in ("<b>Net", "<i>flair", "<u>train"))


def test_moved_cases_are_named_and_the_rest_is_shown(copy: Path) -> None:
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["data"]["root"] = "elsewhere"
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    text = page(copy)
    assert "elsewhere: no such folder" in text
    assert len(Reader(text).rows) == 5


@pytest.mark.slow
def test_report_is_a_verb(run: Path, text: str, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--out", str(tmp_path / "new" / "page.html")]) == 0
    # but for the way to the masks
    shown, expected = (
        re.sub(r'href="\./[^"]*"', "", page) for page in ((tmp_path / "new/page.html").read_text(), text)
    )
    assert shown == expected and shown != text
    (copy / "test" / "cases.csv").unlink()
    assert main(["report", str(copy)]) == 0 and (copy / "report.html").is_file()
    assert "report.html" in capsys.readouterr().out
    assert main(["report", str(tmp_path)]) == 2
    assert "is not the folder of a run (no config.yaml)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 2.3, [0, 0.5, 1, 1.5, 2]),
        (0, 499, [0, 100, 200, 300, 400]),
        (0, 0.002, [0, 0.0005, 0.001, 0.0015, 0.002]),
        (-0.5, 1, [-0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("power", range(-9, 7))
def test_any_top_has_ticks(power: int) -> None:
    for digit in range(1, 10):
        for top in (digit * 10**power, float(f"{digit}e{power}")):
            found = ticks(0, top)
            assert 4 <= len(found) <= 8 and found[-1] <= top * (1 + 1e-6)


@pytest.mark.slow
def test_a_run_without_splits_is_shown_and_a_damaged_one_named(copy: Path) -> None:
    (copy / "splits.json").unlink()
    assert "UNETR on flair, t1ce &middot; cases from" in page(copy)
    (copy / "splits.json").write_text("{")
    with pytest.raises(RunError, match=r"splits\.json: is not valid JSON"):
        page(copy)
    for text in ("run: [", "run: {}", "run", ""):
        (copy / "config.yaml").write_text(text)
        with pytest.raises(RunError, match=r"config\.yaml: is damaged or not what"):
            page(copy)


def test_a_line_runs_where_its_values_lie() -> None:
    drawn = chart("Loss", {"train": [(0, 0.0), (50, 1.0), (100, 2.0)]})
    points = re.findall(r"([\d.]+),([\d.]+)", re.findall(r'points="([^"]+)"', drawn)[0])
    (x0, y0), (x1, y1), (x2, y2), _ = [(float(x), float(y)) for x, y in points]
    assert x0 < x1 < x2 and x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 > y1 > y2 and y0 - y1 == pytest.approx(y1 - y2, abs=0.2)


def test_a_flat_curve_can_be_drawn() -> None:
    assert 'points="52.0,216.0 52.0,216.0"' in chart("Loss", {"train": [(0, 0.0)]})


def test_long_curves_are_thinned_to_means() -> None:
    curve = [(step, step % 2) for step in range(4 * MOST_POINTS)]
    assert thin(curve)[:2] == [(1.5, 0.5), (5.5, 0.5)] and len(thin(curve)) == MOST_POINTS
    assert thin(curve[:5]) == curve[:5]


@pytest.mark.slow
def test_the_page_names_the_rules_of_the_run(copy: Path) -> None:
    assert "Rules brats2020" in page(copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["module"]["rules"] = "brats2023"
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    shown = page(copy)
    assert "Rules brats2023" in shown and "brats2020" not in shown.split("</tfoot>")[1].split("</small>")[0]
    rules = {"name": "BraTS20_x", "rules": {"name": "brats2026"}, "cases": {}}
    (copy / "test/cases.json").write_text(json.dumps(rules))  # the data set's, which the configuration does not name
    assert "Rules brats2026" in page(copy)


@pytest.mark.slow
def test_what_has_no_score_is_left_out_of_means(copy: Path) -> None:
    table = (copy / "test/cases.csv").read_text().splitlines()
    case = table[1].partition(",")[0]
    (copy / "test/cases.csv").write_text("\n".join([table[0], f"{case},0.5,0.5,nan,nan,nan", *table[2:]]))
    shown = page(copy)
    known = [dice for name, dice in DICE.items() if name != case]
    assert f"mean, median {median(known):.3f}" in shown and "nan" not in shown.split("<tfoot>")[1].split("</tfoot>")[0]
    assert Reader(shown).rows[-1] == case and case not in Reader(shown).sheets


def test_scores_stand_below_metric_and_region(copy: Path) -> None:
    names = ["dice_whole_tumor", "dice_tumor_core", "dice_mean", "nsd_05_et", "cleaned/dice_whole_tumor"]
    (copy / "test/cases.csv").write_text(f"case,{','.join(names)}\nnone,1,1,1,1,1\n")
    heads = page(copy).split("<thead>")[1].split("</thead>")[0]
    assert re.findall(r'<th colspan="(\d)">([^<]+)', heads) == [("3", "dice"), ("1", "nsd_05"), ("1", "cleaned/dice")]
    assert re.findall(r"<th>([^<]+)", heads) == ["case", "WHOLE_TUMOR", "TUMOR_CORE", "mean", "ET", "WHOLE_TUMOR"]
