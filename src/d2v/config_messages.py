"""From the errors of jsonargparse and of constructors to one message that names the key as the user writes it."""

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

from jsonargparse import Namespace

_UNKNOWN = re.compile(r"class_path '([^']+)':\s+(?:Option '([^']+)' is not accepted|unrecognized arguments: --(\S+))")
_KEY = re.compile(r'^(?P<indent> *).*?Parser key "(?P<key>[^"]+)":?')
_NAMES = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "NoneType": "null"}


def one_line(error: BaseException) -> str:
    """The text of an error without line breaks; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def parser_message(error: Exception, options: dict[str, Iterable[str]]) -> str:
    """Message for an error of jsonargparse.

    Args:
        error: Nests one explanation in another; the innermost names the culprit, and the outer ones lead to its key.
        options: Names of the keys of each section, those at the top under "".
    """
    text = str(error)
    if "required" in text and "model" in text:
        return "model: the config has no such section; give a whole recipe, such as --config vision.yaml"
    if unknown := re.search(r"does not accept option '([^']+)'", text):
        section, _, name = unknown[1].partition(".")
        if section in options and name:
            return f"{unknown[1]}: there is no such key{_suggest(name, options[section])}"
        return f"{section}: there is no such section or key{_suggest(section, options[''])}"
    path, reason = _innermost(text)
    if not path and (unknown := re.match(r"unrecognized arguments: (.*)", text)):
        option = unknown[1].split()[0].split("=")[0]
        if not option.startswith("--"):
            return f"{option}: does not belong to any option; options are --key value"
        if option == "--resume":
            return "--resume continues `d2v fit`; this command takes --ckpt_path FILE"
        section, _, name = option.removeprefix("--").rpartition(".")
        return f"{option}: there is no such option{_suggest(name, options.get(section, ()))}"
    return f"{path}: {reason}" if path else reason


def key_of(config: Namespace | list[Any], class_type: type, names: Iterable[str], path: str = "") -> str | None:
    """Where a config describes an object of this class; where it states no class, one with arguments of these names."""
    for name, value in _items(config):
        key = f"{path}{name}"
        if isinstance(value, Namespace):
            stated = value.get("class_path")
            # By its last name: torch.optim.AdamW is defined as torch.optim.adamw.AdamW.
            same = stated is None and names and set(vars(value)) == set(names)
            if same or (stated and _short(stated) == class_type.__name__):
                return key
            value = value.get("init_args") or value if stated else value
        if isinstance(value, (Namespace, list)):
            found = key_of(value, class_type, names, f"{key}.")
            if found is not None:
                return found
    return None


def _items(node: Any) -> Iterator[tuple[str, Any]]:
    return iter(vars(node).items()) if isinstance(node, Namespace) else ((str(i), item) for i, item in enumerate(node))


def _innermost(text: str) -> tuple[str, str]:
    """Key path and reason of the first culprit in nested explanations."""
    keys: list[str] = []
    block = text.splitlines()
    while True:
        number, match = next(((n, m) for n, line in enumerate(block) if (m := _KEY.match(line))), (0, None))
        if match is None:
            break
        keys.append(match["key"])
        after, indent = block[number][match.end() :], len(match["indent"])
        deeper: list[str] = []
        for line in block[number + 1 :]:
            if line.strip() and len(line) - len(line.lstrip()) <= indent:
                break
            deeper.append(line)
        block = [after, *deeper]
    reason = "\n".join(block).strip()
    if option := _UNKNOWN.search(reason):
        unknown = (option[2] or option[3]).split("=")[0]
        section, _, name = unknown.rpartition(".")
        names = () if section else _arguments(option[1])
        return ".".join([*keys, unknown]), f"{_short(option[1])} has no such key{_suggest(name, names)}"
    return ".".join(keys), _reason(reason)


def _reason(text: str) -> str:
    """What is wrong with a value, in plain words."""
    value = re.search(r"G(?:iven|ot) value: (.*?)(?:\. Got value:|$)", text, re.MULTILINE)
    got = f", not {value[1]}" if value else ""
    if wrong := re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", text):
        return f"{wrong[1]} is no {wrong[2]}; name a class that is one"
    if wrong := re.search(r"class_path '([^']+)':\s+(.*)", text):
        return f"class_path {wrong[1]}: {wrong[2].strip()}; check its spelling"
    no_class = re.search(r"Expected a dot import path string: (\S+)", text)
    expected = list(dict.fromkeys(re.findall(r"Expected an? (<class '[^']+'>|typing\.Literal\[.*\])", text)))
    if expected and not (no_class and expected == ["<class 'NoneType'>"]):
        literals = [word.strip(" '") for item in expected if item.startswith("t") for word in item[15:-1].split(",")]
        plain = [_NAMES.get(name := item.split("'")[1], _short(name)) for item in expected if item.startswith("<")]
        choices = [*(["one of " + ", ".join(dict.fromkeys(literals))] if literals else []), *plain]
        if "a number" in choices and "a whole number" in choices:
            choices.remove("a whole number")
        return f"expected {' or '.join(choices)}{got}"
    if no_class:
        return f"{no_class[1]} names no class; write its full path, such as package.module.Class"
    return " ".join(text.split())


def _short(class_path: str) -> str:
    return class_path.rpartition(".")[2]


def _arguments(class_path: str) -> Iterable[str]:
    module, _, name = class_path.rpartition(".")
    return inspect.signature(getattr(import_module(module), name)).parameters


def _suggest(name: str, names: Iterable[str]) -> str:
    similar = difflib.get_close_matches(name, list(names), n=2, cutoff=0.6)
    if similar:
        return f"; did you mean {' or '.join(similar)}?"
    known = ", ".join(names)
    return f"; there are: {known}" if known else "; see --help"
