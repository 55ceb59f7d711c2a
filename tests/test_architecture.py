"""The list of rooms in docs/architecture.md is the one that import-linter holds, and every room is there."""

import re
import tomllib
from pathlib import Path

from d2v.official.published import published_checkpoints

ROOT = Path(__file__).parents[1]


def test_the_list_of_rooms_is_true() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = page.partition("## Rooms, and who may know whom")[2].partition("`model`, `nn` and every")[0]
    listed = re.findall(r"^    (\w+)(?:\.py|/) ", rooms, re.MULTILINE)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    held = [name.strip().removeprefix("d2v.") for layer in layers for name in layer.split("|")]
    names = [path for path in (ROOT / "src" / "d2v").iterdir() if not path.name.startswith("_")]
    assert sorted(held) == sorted(path.stem for path in names), "each file and folder of src/d2v is in the contract"
    assert [name for name in held if name in listed] == listed, "in the same order"
    assert {path.name for path in names if path.is_dir()} <= set(listed)


def test_files_that_the_pages_name_are_there() -> None:
    places = [ROOT, ROOT / "src" / "d2v", ROOT / "configs", ROOT / "examples" / "sensors"]
    for page in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        named = re.findall(r"`((?:\w+/)+\w+\.(?:py|yaml|md))`", page.read_text())
        gone = [name for name in named if not any((place / name).exists() for place in places)]
        assert gone == [], page.name


def test_nothing_is_imported_that_windows_lacks() -> None:
    modules = "fcntl|resource|pwd|grp|termios|pty|posix"
    lacking = re.compile(rf"^\s*(?:import|from) (?:{modules})\b(?!\nexcept ImportError)", re.MULTILINE)
    assert [path.name for path in (ROOT / "src").rglob("*.py") if lacking.search(path.read_text())] == []


def test_the_page_of_official_checkpoints_is_what_the_command_prints() -> None:
    page = (ROOT / "docs" / "official_models.md").read_text()
    listed = published_checkpoints()
    assert listed.count("https://") == 3
    for line in filter(None, listed.splitlines()):
        assert f"\n    {line}\n" in page
