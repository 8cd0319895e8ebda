"""Help, completion by a real shell, and what `raum doctor` finds."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from raum_lightning.cli import TOOL_VERBS, TRAINER_VERBS, main
from raum_lightning.cli.doctor import program_of


@pytest.mark.slow
def test_help_is_short_and_says_a_sentence_of_every_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 300 and max(map(len, lines)) <= 100
    headings = [line.partition(":")[0] for line in lines if re.match(r"what to run on|[a-z]+: ", line)]
    assert headings == ["usage", "what to run on", "run", "module", "data", "trainer"]
    at = lines.index("  --module.lr  (0.0001)")
    assert lines[at + 1] == "      Learning rate of AdamW after the warm-up."
    keys = [number for number, line in enumerate(lines) if line.startswith("  --")]
    assert [lines[number] for number in keys if not lines[number + 1].startswith("      ")] == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_verbs_keys_and_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "unetr.yaml").touch()

    def complete(*words: str) -> list[str]:
        given = " ".join(f"'{word}'" for word in words)
        code = f"source ./script; COMP_WORDS=({given}); COMP_CWORD={len(words) - 1}; _raum; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert complete("raum", "") == [*TRAINER_VERBS, *TOOL_VERBS]
    assert complete("raum", "pre") == ["predict", "prepare", "prepare-case"]
    assert complete("lightning", "fit", "--data.ro") == ["--data.root", "--data.roi_size"]
    assert complete("raum", "segment", "--check") == ["--checkpoint"]
    assert complete("lightning", "fit", "-c", "une") == ["unetr.yaml"]


@pytest.mark.parametrize(
    ("text", "said", "ours"),
    [
        ("#!python\nfrom raum_lightning.cli import main\n", "", True),
        ("#!python\nfrom lightning_sdk.cli.entrypoint import main\n", " is of lightning-sdk, not of raum: type", False),
        ("#!python\nimport other\n", " is of another package, not of raum: type raum", False),
    ],
)  # fmt: skip
def test_doctor_says_whose_lightning_is_on_the_path(
    text: str, said: str, ours: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lightning").write_text(text)
    (tmp_path / "lightning").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    shown, fine = program_of("lightning")
    assert shown.startswith(f"{tmp_path / 'lightning'}{said}") and fine == ours


def test_doctor_has_a_line_for_everything_and_fails_where_one_is_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["doctor", "--root", str(tmp_path / "runs")]) == 1
    lines = capsys.readouterr().out.splitlines()
    names = [line.removeprefix("! ").split()[0] for line in lines]
    assert names == ["package", "versions", "raum", "lightning", "CPU", "GPU", "bf16", "W&B", "disk"]
    assert [line.split()[1] for line in lines if line.startswith("! ")] == ["raum", "lightning"]
    assert "is not on the path" in lines[3]
