"""How quickly the command starts, and what it can say before it has imported torch."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import seconds_of_children

from d2v.cli import TRAINER_COMMANDS
from d2v.commands import early_checks

D2V = Callable[..., tuple[int, str, str]]

EARLY = [
    ("fti", r"there is no command 'fti'"),
    ("fit --config nope.yaml", r"--config nope\.yaml: neither a file here nor one that ships"),
    ("fit --config", r"--config: a value is missing"),
    ("fit --config broken.yaml", r"--config broken\.yaml: line \d, .*not valid YAML"),
    ("fit --config section.yaml", r"there is no section 'modle'"),
    ("fit --traner.max_steps 3", r"--traner\.max_steps: there is no such option; did you mean trainer\?"),
    ("fit --config v2/vision.yaml", r"data\.root data/imagenet \(as the recipe.*--data\.root PATH"),
    ("fit --config v2/speech.yaml --data.root /no/such", r"data\.root /no/such does not exist"),
    ("fit --config demo/vision.yaml", r"d2v prepare demo vision"),
    ("probe --checkpoint random --config demo/vision.yaml", r"d2v prepare demo vision"),
    ("fit --config demo/speech_ctc.yaml", r"d2v prepare demo speech"),
    ("fit --config v2/vision.yaml --config speech.yaml --data.root .", r"vision\.yaml \(Pretraining on .*overlays"),
    ("validate --config v2/vision.yaml --resume auto", r"--resume continues `d2v fit`"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "message"), EARLY)
def test_it_is_said_early(
    d2v: D2V, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, message: str
) -> None:
    (tmp_path / "broken.yaml").write_text("model: [\n")
    (tmp_path / "section.yaml").write_text("modle: {}\n")
    monkeypatch.setitem(sys.modules, "d2v.commands.run", None)  # an import of it, and with it of torch, fails
    monkeypatch.setitem(sys.modules, "d2v.monitoring.comparison", None)
    code, _, err = d2v(*command.split())
    assert code == 2, err
    assert re.search(message, err), err


def test_it_is_said_without_torch() -> None:
    code = (
        "import sys, d2v, d2v.cli; d2v.cli.main(['fit', '--config', 'nope.yaml']); d2v.cli.main(['fit', '--foo']);"
        "print(sorted({'torch', 'lightning', 'numpy'} & sys.modules.keys()))"
    )
    start = seconds_of_children()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n", run.stdout
    assert run.stderr.count("d2v: error: ") == 2
    assert seconds_of_children() - start < 5  # a quarter of a second on a machine with nothing else to do


def test_the_command_imports_a_lean_torchmetrics() -> None:
    """And what was hidden from torchmetrics is there for everybody else."""
    code = (
        "import sys; from d2v.lean_imports import keep_torchmetrics_lean as keep; keep(); import torchmetrics;"
        "heavy = {'matplotlib', 'scipy', 'transformers'}; print(sorted(heavy & sys.modules.keys()));"
        "import matplotlib; print(torchmetrics.functional.pearson_corrcoef.__name__)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\npearson_corrcoef\n"


@pytest.mark.parametrize("command", TRAINER_COMMANDS)
def test_every_option_is_known_early(d2v: D2V, command: str) -> None:
    _, out, _ = d2v(command, "--help")
    options = set(re.findall(r"\[--(\w+)[ \]]", out.partition("options:")[0]))
    assert "ckpt_path" in options
    assert options <= {*early_checks.SECTIONS, *early_checks._OPTIONS}


def test_importing_d2v_imports_nothing_heavy() -> None:
    code = "import sys, d2v; print([name for name in ('torch', 'numpy', 'yaml', 'lightning') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
