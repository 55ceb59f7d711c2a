"""What the documentation site is built from, in one folder: pages, what they link to, and a page of all recipes.

    python docs/stage.py FOLDER

Files keep their places in the repository, so that a link works there and on the site alike.
"""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "AGENTS.md", *("docs", "benchmarks")]
LINKED = re.compile(r"\]\(([^)#:\s]+)")


def stage(folder: Path) -> None:
    """Write the source of the site; what was there is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in PAGES:
        place = ROOT / name
        for page in sorted(place.rglob("*.md")) if place.is_dir() else [place]:
            _copy(page, folder)
            for link in LINKED.findall(page.read_text()):
                target = (page.parent / link).resolve()
                if target.is_file() and target.suffix != ".md":
                    _copy(target, folder)
    for asset in sorted((ROOT / "docs").glob("*.css")):
        _copy(asset, folder)
    (folder / "docs" / "all_recipes.md").write_text(recipes())


def _copy(file: Path, folder: Path) -> None:
    place = folder / file.relative_to(ROOT)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, place)


def recipes() -> str:
    """The page of all recipes: the header of each config, as it is."""
    parts = ["# All recipes\n\nThe headers of `configs/`; `d2v configs NAME` shows one with its values.\n"]
    room = ""
    for config in sorted((ROOT / "configs").rglob("*.yaml"), key=lambda path: (path.parent.parts, path.name)):
        name = config.relative_to(ROOT / "configs")
        if str(name.parent) != room:
            room = str(name.parent)
            parts.append(f"## {room}/\n")
        header = []
        for line in config.read_text().splitlines():
            if not line.startswith("#"):
                break
            header.append(line.removeprefix("#").removeprefix(" "))
        body = "\n".join(header)
        parts.append(f"### {name}\n\n```text\n{body}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
