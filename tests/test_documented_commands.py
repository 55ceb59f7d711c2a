"""Each command line of README, AGENTS.md and docs/ is one that this d2v takes: configs, keys and options are there.

Lines are parsed by the command's own parser and not run: a trainer command with options of its own by
``--print_config``, which ends before any data are opened, and one without by what is checked before torch is imported.
That they also work is for the tests of ``RUN_BY``, on small data, and for ``NOT_RUN`` nobody here can tell.
"""

import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from d2v.cli import COMMANDS, TRAINER_COMMANDS, main
from d2v.commands.early_checks import checked_words

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "AGENTS.md", "CONTRIBUTING.md")),
    # the commands of own_modality.md are those of its package, whose test runs them (examples/sensors/test_sensors.py)
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "own_modality.md"),
]

RUN_BY = {
    "fit": "tests/cli/test_own_pictures.py",
    "validate": "tests/training/test_stop_signals.py",
    "test": "tests/finetuning/test_commands.py",
    "predict": "tests/finetuning/test_commands.py",
    "probe": "tests/evaluation/test_probe_in_use.py",
    "embed": "tests/cli/test_embed_pictures.py",
    "search": "tests/cli/test_search.py",
    "align": "tests/features/test_align.py",
    "import": "tests/cli/test_untrusted_checkpoints.py",
    "export": "tests/cli/test_export.py",
    "prepare": "tests/cli/test_prepare_speech.py",
    "glue": "tests/finetuning/test_glue.py",
    "bench": "tests/bench/test_bench.py",
    "bench data": "tests/bench/test_loading.py",
    "cache": "tests/data/test_user_cache.py",
    "configs": "tests/cli/test_configs_command.py",
    "doctor": "tests/cli/test_commands.py",
    "report": "tests/cli/test_report.py",
    "dashboard": "tests/cli/test_dashboard.py",
}
"""A test that runs the command on real files."""

NOT_RUN = {
    "hf://": "the hub is not reached from tests",
    "s3://": "no bucket is at hand; stores in memory stand for them (tests/data/test_stores.py)",
    "gs://": "no bucket is at hand; likewise",
    "hardware/": "needs GPUs; two processes of a CPU stand for them (tests/training/test_several_devices.py)",
    "/path/to/": "published recipes on published data take days; they take a few small steps in other tests",
    "IMAGENET": "likewise",
    "LibriSpeech": "likewise",
    "AUDIOSET": "likewise",
}
"""Why a line that holds this is parsed only."""

PLAIN = ("--config", "--data.root", "--model.checkpoint", "--resume", "--ckpt_path", "--run_name", "--length")
"""Options of nearly every line: that they are there, a few lines show as well as all."""

# What stands for a file of the user's that a parser reads.
RECIPE_OF = {"runs/CLS": "finetune/imagenet_v2.yaml", "runs/CTC": "finetune/librispeech_10h.yaml"}


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """The place and the words after ``d2v`` of each command that stands on a line of its own."""
    for page in PAGES:
        text = re.sub(r" *\\\n *", " ", page.read_text())
        for line in re.findall(r"^ {4,}(?:srun .*?|torchrun .*?)?d2v +(\w.*)$", text, re.MULTILINE):
            words = shlex.split(re.sub(r"\[[^]]*\]", "", line), comments=True)
            yield f"{page.name}: d2v {line}", words


def name_of(words: list[str]) -> str:
    two = " ".join(words[:2])
    return two if two in COMMANDS else words[0]


def kind_of(words: list[str]) -> tuple[str, ...]:
    """What makes a parser's work: the command, its configs and the names of its options."""
    kept = []
    for before, word in zip(["", *words], words, strict=False):
        if word.startswith("-") or before == "--config":
            kept.append(word.partition("=")[0])
    return (name_of(words), *kept)


LINES = {kind_of(words): (place, words) for place, words in command_lines()}


@pytest.mark.parametrize("kind", LINES, ids=lambda kind: " ".join(kind)[:80])
def test_the_command_line_is_one(
    kind: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    place, words = LINES[kind]
    monkeypatch.chdir(tmp_path)
    name = name_of(words)
    if name in TRAINER_COMMANDS:
        words = [*stand_ins(words), "--print_config"]
        if {word for word in kind[1:] if word.startswith("-")} <= set(PLAIN):
            checked_words(name, words[1:])
            return
    else:
        module = importlib.import_module(COMMANDS[name][0])
        monkeypatch.setattr(module, "run", lambda args: None)
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(words)
    assert code == 0, f"{place}\n{capfd.readouterr().err}"


def stand_ins(words: list[str]) -> list[str]:
    """The words with recipes that ship in place of a user's runs and recipes."""
    changed = []
    for word in words:
        run = word.removesuffix("/config.yaml")
        if run != word:
            word = RECIPE_OF.get(run, "finetune/speech.yaml")
        changed.append("v2/vision.yaml" if word in ("NAME", "NAME.yaml") else word)
    return changed


def test_there_are_commands_of_every_kind_and_each_is_run_somewhere() -> None:
    documented = {kind[0] for kind in LINES}
    assert documented <= set(RUN_BY), "name a test that runs it"
    assert set(RUN_BY) == {*TRAINER_COMMANDS, *COMMANDS}
    for name, test in RUN_BY.items():
        text = (ROOT / test).read_text()
        assert all(f'"{word}"' in text for word in name.split()), f"{test} does not run d2v {name}"
    everything = "\n".join(place for place, _ in command_lines())
    assert [part for part in NOT_RUN if part not in everything] == []


def test_commands_in_the_text_are_there() -> None:
    """``d2v NAME`` in a sentence: the command exists. ``make NAME``: so does the target."""
    names = {word for name in (*TRAINER_COMMANDS, *COMMANDS) for word in name.split()[:1]}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        assert set(re.findall(r"`d2v ([a-z]\w*)", text)) <= names, page.name
        assert set(re.findall(r"(?:`|^ {4})make ([a-z][a-z-]+)", text, re.MULTILINE)) <= targets, page.name
