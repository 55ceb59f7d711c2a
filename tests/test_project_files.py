"""Files that only other programs read: they would break without anybody noticing."""

from pathlib import Path

import pytest
import yaml

import d2v

ROOT = Path(__file__).resolve().parents[1]
YAML = sorted(
    [
        *ROOT.glob(".github/**/*.yml"),
        ROOT / ".pre-commit-config.yaml",
        ROOT / "CITATION.cff",
    ]
)


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_is_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_the_citation_is_of_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == d2v.__version__


def test_hooks_before_a_commit_run_tools_of_the_lock() -> None:
    locked = (ROOT / "requirements.lock").read_text()
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    packages = {"ruff": "ruff", "lint-imports": "import-linter"}
    for hook in hooks:
        tool = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert f"\n{packages[tool]}==" in locked
