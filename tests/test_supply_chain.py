"""What is installed is what was locked: floors, hashes, and nothing from anywhere else."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS = PROJECT["dependency-groups"]


@pytest.mark.parametrize("banned", ["lightning==2.6.2", "lightning==2.6.3", "lightning==2.6.5", "torch==2.15.0"])
def test_versions_that_bite_are_refused(banned: str) -> None:
    name, version = banned.split("==")
    names = [name] if name == "torch" else [name, "pytorch-lightning"]  # lightning requires the other in any version
    for requirement in map(Requirement, PROJECT["project"]["dependencies"]):
        if requirement.name in names:
            assert version not in requirement.specifier
            names.remove(requirement.name)
    assert names == []


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [("requirements.lock", [*PROJECT["project"]["dependencies"], *GROUPS["dev"]]), ("docs.lock", GROUPS["docs"])],
)
def test_the_lock_fits_the_requirements(lock: str, wanted: list[str]) -> None:
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / lock).read_text(), re.MULTILINE))
    for requirement in map(Requirement, wanted):
        assert locked[requirement.name] in requirement.specifier, requirement


@pytest.mark.parametrize("name", ["requirements.lock", "installer.lock", "docs.lock"])
def test_each_locked_package_has_its_hashes_and_no_address(name: str) -> None:
    text = (ROOT / name).read_text()
    names = re.findall(r"^[\w.-]+(?==)", text, re.MULTILINE)
    hashed = re.findall(r"^([\w.-]+)==\S+(?: ;.*?)? \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    assert hashed == names != []
    assert not re.search(r"://|^-|^\S+ @", text, re.MULTILINE)


def test_installation_and_ci_ask_for_hashes_and_few_rights() -> None:
    make, ci = (ROOT / "Makefile").read_text(), (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    for line in re.findall(r"^\t.*(?:pip install|pip sync).*$", make, re.MULTILINE):
        assert "--require-hashes" in line or "--no-deps --no-build-isolation" in line, line
    assert "permissions:\n  contents: read\n" in ci
    assert ci.count("permissions") == 1
    assert "pip-audit --require-hashes" in ci
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|[0-9a-f]{40})", action) for action in re.findall(r"uses: (\S+)", ci))
