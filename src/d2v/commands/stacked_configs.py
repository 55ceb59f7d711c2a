"""What several configs amount to, where the parser would let the last one win: a resumed run's, lists of callbacks."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from d2v.configs import options, read_config, read_values
from d2v.errors import UserError

_LISTS = ("logger", "callbacks")


def _resumed_run(words: Sequence[str]) -> Path | None:
    """The folder of the run that a command line continues by its path."""
    resume = ""
    for option, value in options(words):
        if option == "--resume":
            resume = value
    path = Path(resume).expanduser()
    if not resume or resume == "auto":
        return None
    if path.is_file() and path.parent.name == "checkpoints":
        return path.parent.parent
    return path


def config_of_resumed_run(words: Sequence[str]) -> dict[str, Any]:
    """The config of the run that a command line continues by its path; empty if it does not.

    Raises:
        UserError: The run has none any more, and the command line names no other.
    """
    run = _resumed_run(words)
    if run is None:
        return {}
    if not (run / "config.yaml").is_file():
        if (run / "checkpoints").is_dir() and "--config" not in words:
            text = "is missing; name the run's recipe, too: --config NAME.yaml"
            raise UserError(f"--resume {run}: {run / 'config.yaml'} {text}")
        return {}
    content = read_config(run / "config.yaml")
    content.pop("run_name", None)  # to give one asks for another run
    return content


def content_of(word: str) -> dict[str, Any]:
    """What stands behind ``--config`` on a checked command line: the path of a file, or the lines of one made here."""
    if "\n" in word:
        return dict(yaml.safe_load(word))
    return read_config(Path(word))


def contents_of(words: Sequence[str]) -> list[Any]:
    """What all options of a checked command line state, configs and the files in them read."""
    contents: list[Any] = []
    for option, value in options(words):
        folder = Path()
        if option == "--config":
            content: Any = content_of(value)
            folder = folder if "\n" in value else Path(value).parent
        elif option.startswith("--"):
            content = _stated(value)
        else:
            continue
        contents += [content, *parts_in_files(content, folder, set())]
    return contents


def parts_in_files(node: Any, folder: Path, seen: set[Path]) -> Iterator[Any]:
    """The contents of YAML files that a config names in place of a section or list, such as ``callbacks: mine.yaml``.

    Args:
        node: Values of a config.
        folder: That of the config; the parser looks for the files there.
        seen: Files that were read; those that come are added.

    Raises:
        UserError: A file cannot be read.
    """
    if isinstance(node, list | dict):
        for item in node.values() if isinstance(node, dict) else node:
            yield from parts_in_files(item, folder, seen)
    elif isinstance(node, str):
        for path in _files_named(node, folder):
            if path not in seen:
                seen.add(path)
                content = read_values(path)
                yield content
                yield from parts_in_files(content, path.parent, seen)


def _files_named(value: str, folder: Path) -> list[Path]:
    """YAML files that a value of a config in ``folder`` may name; the parser reads the first."""
    found = []
    if value.endswith((".yaml", ".yml")):
        for place in (folder, Path()):
            path = (place / Path(value).expanduser()).absolute()
            if os.path.isfile(path):
                found.append(path)
    return found


def places_given(words: Sequence[str]) -> set[str]:
    """What the user gave to the trainer on the command line itself, and the folder of the run that is continued."""
    given: set[str] = set()
    for option, value in options(words):
        if option.partition(".")[0] == "--trainer":
            given.update((value, *(str(leaf) for _, leaf in _leaves(_stated(value)))))
    run = _resumed_run(words)
    if run is not None:
        given.add(str(run.absolute().parent))
    return given


def require_stores_given(config: dict[str, Any], words: Sequence[str]) -> None:
    """Check that the user named each store that data would be fetched from: a config may be a stranger's.

    Raises:
        UserError: Only a config names it.
    """
    from d2v.data.sources.stores import require_given

    given = [value for option, value in options(words) if option.startswith("--") and option != "--config"]
    for name, root in _leaves(config):
        key = name.replace(".init_args", "")
        if key.endswith(".root") and isinstance(root, str):
            require_given(root, _resumed_run(words) is not None or any(root in value for value in given), key)


def _leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All plain values, each with its keys, one after the other."""
    if isinstance(node, dict):
        for key, item in node.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(node, list):
        for item in node:
            yield from _leaves(item, name)
    else:
        yield name, node


def _stated(value: str) -> Any:
    """The value of an option, which may be written as YAML."""
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        return value


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
            if before and isinstance(value, str):
                for path in _files_named(value, Path(word).parent)[:1]:
                    value = read_values(path)
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
