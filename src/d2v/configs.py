"""Find and read config files: those of the working folder first, then those that ship with d2v."""

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from d2v.errors import UserError
from d2v.text_files import read_text

_CHECKOUT = Path(__file__).resolve().parents[2] / "configs"
SHIPPED = _CHECKOUT if _CHECKOUT.is_dir() else Path(__file__).resolve().parent / "configs"
"""The shipped configs: the checkout's folder when d2v runs from one, otherwise the copy inside the package."""


def find_config(name: str | Path) -> Path:
    """The file of a config, given by its path or by its name among the shipped ones (``v2/vision.yaml``).

    Raises:
        UserError: There is no such file. The message lists shipped configs with a similar name, or else the recipes.
    """
    path = Path(name).expanduser()
    for candidate in (path, SHIPPED / path):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise UserError(f"--config {name}: is a folder; give a YAML file, such as a run's config.yaml")
    if path.is_absolute():
        raise UserError(f"--config {name}: no such file")
    raise UserError(
        f"--config {name}: neither a file here nor one that ships with d2v. There are: {', '.join(_suggestions(path))}"
    )


def header_of(path: Path) -> str:
    """The first paragraph of the comment that a config begins with, in one line."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or not text:
            break
        lines.append(text)
    return " ".join(lines)


def _suggestions(path: Path) -> list[str]:
    """Shipped configs with a name like this one; if there are none, the recipes and how many more there are."""
    shipped: list[str] = []
    for file in sorted(SHIPPED.rglob("*.yaml")):
        shipped.append(file.relative_to(SHIPPED).as_posix())
    similar = [name for name in shipped if path.stem in name]
    if not similar:
        similar = get_close_matches(str(path), shipped, cutoff=0.75)
    if similar:
        return similar
    recipes = [name for name in shipped if "/" not in name.removeprefix("v2/")]
    return [*recipes, f"and {len(shipped) - len(recipes)} more: see `d2v configs`"]


def merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    """Merge a config into others as LightningCLI does: sections merge, unless they describe two classes; all other
    values are replaced."""
    for key, value in other.items():
        before = into.get(key)
        if isinstance(value, dict) and isinstance(before, dict) and _same_class(before, value):
            merge(before, value)
        else:
            into[key] = value


def _same_class(before: dict[str, Any], value: dict[str, Any]) -> bool:
    return value.get("class_path", before.get("class_path")) == before.get("class_path")


_MOST_BYTES, _MOST_VALUES = 1_000_000, 10_000
_TOO_MANY = f"it stands for more than {_MOST_VALUES:,} values"


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets the last of two equal keys win, without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for name, _ in node.value:
            if name.value in seen and name.value != "<<":
                problem = f"{name.value} is there twice"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=name.start_mark)
            seen.add(name.value)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MOST_VALUES:
            raise yaml.constructor.ConstructorError(problem=_TOO_MANY, problem_mark=node.start_mark)


def read_config(path: Path) -> dict[str, Any]:
    """The sections of a config file; an empty file has none.

    Raises:
        UserError: The file cannot be read, or is not a YAML mapping.
    """
    content = read_values(path)
    if content is not None and not isinstance(content, dict):
        raise UserError(f"--config {path}: holds a {type(content).__name__} instead of sections such as `model:`")
    return content or {}


def read_values(path: Path, named: str = "--config ") -> Any:
    """What stands in a config file, in a file that a config names in place of a section or list, or in another YAML.

    Args:
        path: The file.
        named: What stands before its name in messages.

    Raises:
        UserError: The file cannot be read, or is no YAML.
    """
    where = f"{named}{path}"
    try:
        content = yaml.load(read_text(path, named.strip(), most=_MOST_BYTES), _UniqueKeys)
        if _count(content, {}) > _MOST_VALUES:
            raise UserError(f"{where}: {_TOO_MANY}, by aliases of aliases")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"{where}: {place}not valid YAML ({error.problem})") from error
    except RecursionError as error:
        raise UserError(f"{where}: is nested too deeply") from error
    except UserError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{where}: cannot be read ({' '.join(str(error).split())})") from error
    return content


def _count(value: Any, known: dict[int, int]) -> int:
    """How many values there are in one, each as often as aliases repeat it."""
    if not isinstance(value, list | dict):
        return 1
    if id(value) not in known:
        known[id(value)] = _MOST_VALUES  # if it holds itself
        known[id(value)] = 1 + sum(_count(item, known) for item in _items(value))
    return known[id(value)]


def _items(value: list[Any] | dict[Any, Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The words of a command line, each with its value: what follows its ``=``, else the next word."""
    for number, word in enumerate(words):
        option, equals, value = word.partition("=")
        yield option, value if equals else "".join(words[number + 1 : number + 2])
