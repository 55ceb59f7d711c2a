"""Turn an error of jsonargparse into one message that names the key as the user writes it."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

_UNKNOWN = re.compile(r"class_path '([^']+)':\s+(?:Option '([^']+)' is not accepted|unrecognized arguments: --(\S+))")
_KEY = re.compile(r'^(?P<indent> *).*?Parser key "(?P<key>[^"]+)":?')
_NAMES = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "NoneType": "null"}
_PLAIN = (str, int, float, bool, type(None))


def one_line(error: BaseException) -> str:
    """The text of an error without line breaks, or the name of its type where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def parser_message(error: Exception, options: dict[str, Iterable[str]]) -> str:
    """The message that the user gets for an error of jsonargparse.

    Args:
        error: Its text nests one explanation in another: the innermost says what is wrong, the outer ones say where.
        options: The names of the keys in each section; those of the top level are under "".
    """
    text = str(error)
    if re.match(r"the following arguments are required: (\w+\.)?model\b", text):
        return "model: the config has no such section; give a whole recipe, such as --config vision.yaml"
    unknown = re.search(r"does not accept option '([^']+)'", text)
    if unknown and "Parser key" not in text:
        section, _, name = unknown[1].partition(".")
        if section in options and name:
            return f"{unknown[1]}: there is no such key{suggest(name, options[section])}"
        return f"{section}: there is no such section or key{suggest(section, options[''])}"
    path, reason = _innermost(text)
    if (nested := re.search(r"NestedArg\(key='([^']+)'", text)) and path.startswith(("model.media", "data.parts")):
        path = f"{path.partition('.')[0]}.{nested[1].replace('.init_args.', '.')}"  # the parser forgets names in a dict
    if not path and (unknown := re.match(r"unrecognized arguments: (.*)", text)):
        option = unknown[1].split()[0].split("=")[0]
        if not option.startswith("--"):
            return f"{option}: belongs to no option; write options as --key value"
        section, _, name = option.removeprefix("--").rpartition(".")
        return f"{option}: there is no such option{suggest(name, options.get(section, ()))}"
    if path:
        return f"{path}: {reason or f'must be a section with keys: write --{path}.KEY VALUE, or leave it out'}"
    return reason


def key_of(config: Any, class_type: type, arguments: Mapping[str, Any]) -> str | None:
    """The key under which a config describes an object of this class; None if there is none.

    Args:
        config: A section, or a list in one.
        class_type: The class looked for.
        arguments: Its own, by whose names it is recognised where the config states no class, and by whose values among
            several of the class.
    """
    found = dict(_described(config, class_type, arguments, ""))
    for key, values in found.items():
        differing = set[str]()
        for name, value in arguments.items():
            if isinstance(value, _PLAIN) and values.get(name) != value:
                differing.add(name)
        if differing <= {"seed"}:
            return key
    return next(iter(found), None)


def _described(config: Any, class_type: type, names: Iterable[str], path: str) -> Iterator[tuple[str, Namespace]]:
    """Keys of objects of a class, with what a config states of their arguments."""
    for name, value in _items(config):
        key = f"{path}{name}"
        if isinstance(value, Namespace):
            stated = value.get("class_path")
            # By its last name: torch.optim.AdamW is defined as torch.optim.adamw.AdamW.
            if stated:
                found_here = _short(stated) == class_type.__name__
                value = value.get("init_args") or value
            else:
                found_here = bool(names) and set(vars(value)) == set(names)
            if found_here:
                yield key, value
        if isinstance(value, (Namespace, list, dict)):
            yield from _described(value, class_type, names, f"{key}.")


def _items(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Namespace | dict):
        yield from (node if isinstance(node, dict) else vars(node)).items()
    else:
        for index, item in enumerate(node):
            yield str(index), item


def _innermost(text: str) -> tuple[str, str]:
    """The key path and the reason of the innermost explanation, following the first at each level."""
    keys: list[str] = []
    block = text.splitlines()
    while (found := _first_key(block)) is not None:
        number, match = found
        keys.append(match["key"])
        block = [block[number][match.end() :], *_indented_below(block, number, len(match["indent"]))]
    reason = "\n".join(block).strip()
    if missing := re.search(r"class_path '([^']+)':\s+the following arguments are required: (.*)", reason):
        first = missing[2].split(",")[0]
        return ".".join(keys), f"{_short(missing[1])} needs {missing[2]}, such as --{'.'.join(keys)}.{first} VALUE"
    if option := _UNKNOWN.search(reason):
        if _short(option[1]) in ("LightningModule", "LightningDataModule"):
            return ".".join(
                keys[:1]
            ), "the config names no class; put a whole recipe before it, --config own/pictures.yaml"
        unknown = (option[2] or option[3]).split("=")[0]
        below, _, name = unknown.rpartition(".")
        names = _arguments(option[1], below)
        return ".".join([*keys, unknown]), f"{_short(option[1])} has no such key{suggest(name, names)}"
    if option := re.search(r"class_path '([^']+)':\s+Group '([^']+)' does not accept option '([^']+)'", reason):
        below, _, name = f"{option[2]}.{option[3]}".rpartition(".")
        names = _arguments(option[1], below)
        return ".".join([*keys, below, name]), f"there is no such key{suggest(name, names)}"
    return ".".join(keys), _reason(reason)


def _first_key(lines: list[str]) -> tuple[int, re.Match[str]] | None:
    for number, line in enumerate(lines):
        if match := _KEY.match(line):
            return number, match
    return None


def _indented_below(lines: list[str], number: int, indent: int) -> list[str]:
    """The lines after ``number`` that are blank or further to the right than ``indent``, up to the first other one."""
    below: list[str] = []
    for line in lines[number + 1 :]:
        if line.strip() and len(line) - len(line.lstrip()) <= indent:
            break
        below.append(line)
    return below


def _reason(text: str) -> str:
    """What is wrong with a value, in plain words."""
    if wrong := re.search(r"Importing '([^']+)' is not allowed", text):
        return no_part(wrong[1])
    wrong = re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", text)
    wrong = wrong or re.search(r"Expected '(\S+)' to be a subclass of <class '(\w+)'>", text)
    if wrong:
        return f"{wrong[1]} is not a subclass of {wrong[2]}; name one that is"
    if wrong := re.search(r"Import path does not correspond to a subclass of (\w+)[\s\S]*Given value: (\S+)", text):
        return f"{wrong[2]} is not a subclass of {wrong[1]}; name one that is"
    if wrong := re.search(r"class_path '([^']+)':\s+(.*)", text):
        return f"class_path {wrong[1]}: {wrong[2].strip()}; {_import_hint(wrong[1], wrong[2])}"
    if wrong := re.search(r"expects a function or a callable class: (.*?)(?:\. Got value:|$)", text, re.MULTILINE):
        return _callable_reason(wrong[1], text)
    if wrong := re.search(r"Expected an instantiatable class, but (\S+) is abstract", text):
        missing = ", ".join(sorted(class_at(wrong[1]).__abstractmethods__))
        return f"{wrong[1]} cannot be built, because it does not define: {missing}"
    no_class = re.search(r"Expected a dot import path string: (\S+)", text)
    expected = _expected(text)
    if expected and not (no_class and expected == ["null"]):
        value = re.search(r"G(?:iven|ot) value: (.*?)(?:\. Got value:|$)", text, re.MULTILINE)
        got = f", not {value[1]}" if value else ""
        return f"expected {' or '.join(expected)}{got}"
    if no_class:
        return f"{no_class[1]} names no class; write its full path, such as package.module.Class"
    return " ".join(text.split()).partition(". Got value: Namespace(")[0]


def no_part(class_path: str) -> str:
    """Why a config may not name a class or function, and what to do."""
    package = class_path.partition(".")[0]
    if hidden := _hidden(package):
        return f"{class_path}: {hidden}"
    return (
        f"{class_path} is no part of a training (a module, an optimizer, a data set, a callback), and its code would "
        f"run. If you trust it: --allow {package}"
    )


def _callable_reason(reason: str, text: str) -> str:
    """What is wrong with a class that is built later, with one more argument: a head, a front end."""
    stated = re.search(r"class_path='([^']+)'", text)
    option = re.search(r"Option '([^']+)' is not accepted", reason)
    if stated and option:
        names = list(_arguments(stated[1]))[1:]  # the first one is not for the config to give
        return f"{_short(stated[1])} has no such key as {option[1]}{suggest(option[1], names)}"
    missing = re.search(r"arguments are required: (.*)", reason)
    if stated and missing:
        return f"{_short(stated[1])} needs {missing[1]}: give that under init_args, or name another class"
    if stated and "No module named" in reason:
        return f"class_path {stated[1]}: {reason}; {_import_hint(stated[1], reason)}"
    return f"{reason}; give the full path of a class or function, and its arguments as init_args"


def _import_hint(class_path: str, reason: str) -> str:
    """What to do when a class cannot be imported."""
    package = class_path.partition(".")[0]
    missing = re.search(r"No module named '([^']+)'", reason)
    if missing is None:
        return _hidden(package) or "check its spelling"
    if f"{class_path}.".startswith(f"{missing[1]}."):
        return (
            "check its spelling; install its package, put its file into the working folder (FILE.py holds FILE.Class), "
            "or the folder that holds it on PYTHONPATH"
        )
    return "a file that it needs imports what is not there"


def _hidden(package: str) -> str:
    file, found = Path(f"{package}.py"), find_spec(package)
    if file.is_file() and found and found.origin and not file.samefile(found.origin):
        return f"{file} of the working folder is hidden by {found.origin}: give it another name"
    return ""


def _expected(text: str) -> list[str]:
    """What a value may be, in plain words: the words to choose from, then the types."""
    words: list[str] = []
    types: list[str] = []
    for class_path, literals in re.findall(r"Expected an? (?:<class '([^']+)'>|typing\.Literal\[(.*)\])", text):
        if class_path:
            types.append(_NAMES.get(class_path, _short(class_path)))
        for word in filter(None, literals.split(",")):
            words.append(word.strip(" '"))
    for count in re.findall(r"Expected a tuple with (\d+) elements", text):
        types.insert(0, f"{count} values")
    if "a number" in types and "a whole number" in types:
        types.remove("a whole number")
    if words:
        types.insert(0, "one of " + ", ".join(dict.fromkeys(words)))
    return list(dict.fromkeys(types))


def _short(class_path: str) -> str:
    return class_path.rpartition(".")[2]


def _arguments(class_path: str, below: str = "") -> list[str]:
    """Names of a class's arguments, with those that its constructor hands on as ``**kwargs``.

    Args:
        class_path: Of the class.
        below: An argument that is itself a group of keys, such as ``student.trunk``, whose names are wanted.
    """
    parser = ArgumentParser()
    named = parser.add_class_arguments(class_at(class_path), fail_untyped=False, sub_configs=True)
    if not below:
        return list(named)
    names: list[str] = []
    for action in parser._actions:
        group, _, name = action.dest.rpartition(".")
        if group == below:
            names.append(name)
    return names


def class_at(class_path: str) -> Any:
    """The class or function of that name."""
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name)


def suggest(name: str, names: Iterable[str]) -> str:
    """What to try instead of a name that does not exist."""
    similar = difflib.get_close_matches(name, list(names), n=2, cutoff=0.6)
    if similar:
        return f"; did you mean {' or '.join(similar)}?"
    if names:
        return f"; there are: {', '.join(names)}"
    return "; see --help"
