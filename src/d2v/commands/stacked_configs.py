"""What several configs amount to, where the parser would let the last one win: a resumed run's, lists of callbacks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from d2v.configs import read_config
from d2v.errors import UserError

_LISTS = ("logger", "callbacks")


def config_of_resumed_run(words: Sequence[str]) -> dict[str, Any]:
    """The config of the run that a command line continues by its path; empty if it does not.

    Raises:
        UserError: The run has none any more, and the command line names no other.
    """
    resume = ""
    for option, value in options(words):
        if option == "--resume":
            resume = value
    path = Path(resume).expanduser()
    if not resume or resume == "auto":
        return {}
    if path.is_file() and path.parent.name == "checkpoints":
        path = path.parent.parent
    config = path / "config.yaml"
    if not config.is_file():
        if (path / "checkpoints").is_dir() and "--config" not in words:
            raise UserError(f"--resume {resume}: {config} is missing; name the run's recipe, too: --config NAME.yaml")
        return {}
    content = read_config(config)
    content.pop("run_name", None)  # to give one asks for another run
    return content


def content_of(word: str) -> dict[str, Any]:
    """What stands behind ``--config`` on a checked command line: the path of a file, or the lines of one made here."""
    if "\n" in word:
        return dict(yaml.safe_load(word))
    return read_config(Path(word))


def contents_of(words: Sequence[str]) -> list[dict[str, Any]]:
    """The contents of all configs on a checked command line."""
    return [content_of(value) for option, value in options(words) if option == "--config"]


def with_added_lists(words: Sequence[str], contents: dict[str, dict[str, Any]]) -> list[str]:
    """The words, with one more config where lists of loggers or of callbacks add up.

    A class that an earlier config lists keeps its place, and takes the values that the later one states. ``null`` or
    ``false`` in a config, and ``--trainer.callbacks`` or ``--trainer.logger`` between configs, start the list anew.

    Args:
        words: The command line.
        contents: Of its configs, by the words that name them.
    """
    added: dict[str, list[Any]] = {name: [] for name in _LISTS}
    result: list[str] = []
    words = list(words)
    for number, word in enumerate(words):
        result.append(word)
        for name in _LISTS:
            if word.partition("=")[0] == f"--trainer.{name}":
                added[name] = []
        if number == 0 or words[number - 1] != "--config":
            continue
        sums = {}
        for key, value in (contents[word].get("trainer") or {}).items():
            name = key.removesuffix("+")
            if name not in _LISTS or value is True:
                continue
            before = added[name]
            added[name] = _added(before, value) if value else []
            if before and value:
                sums[name] = added[name]
        if sums:
            result += ["--config", yaml.safe_dump({"trainer": sums})]
    return result


def _added(before: list[Any], value: Any) -> list[Any]:
    """One list of classes after the other; of a class in both there is one, with the later values."""
    result = list(before)
    known = {_class_of(entry): number for number, entry in enumerate(before)}
    for entry in value if isinstance(value, list) else [value]:
        number = known.pop(_class_of(entry), None)
        if number is None:
            result.append(entry)
        else:
            result[number] = _merged(_as_dict(before[number]), _as_dict(entry))
    return result


def _merged(before: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    values = {**(before.get("init_args") or {}), **(entry.get("init_args") or {})}
    return {**before, **entry, "init_args": values}


def _as_dict(entry: Any) -> dict[str, Any]:
    return entry if isinstance(entry, dict) else {"class_path": entry}


def _class_of(entry: Any) -> str:
    """The name of an entry's class, which may be stated with or without its package."""
    return str(_as_dict(entry).get("class_path")).rpartition(".")[2]


def options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The words of a command line, each with its value: what follows its ``=``, else the next word."""
    for number, word in enumerate(words):
        option, equals, value = word.partition("=")
        yield option, value if equals else "".join(words[number + 1 : number + 2])
