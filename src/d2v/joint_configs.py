"""Configs of joint models: the section ``media``, which takes recipes of one kind of input each, and the way back."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from d2v.config_messages import suggest
from d2v.configs import find_config, merge, options, read_config
from d2v.errors import UserError

MEDIA = "media"
_KEY = re.compile(r"--(?:(model)|(data))(?:\.init_args)?\.(?:media|parts)\.([^.]+)(?:\.(.+))?")
_MODEL, _DATA = "d2v.training.joint_pretraining.JointPretraining", "d2v.data.joint.JointDataModule"
_OF_THE_WHOLE = (
    "student", "ema", "optimizer", "schedule", "init_from", "init_teacher", "seed", "collapse", "weight_decay_on",
)  # fmt: skip
"""Keys of a recipe's model that a joint model has once."""
_ORIGINS = "# media: "


def with_media(
    words: Sequence[str], contents: Mapping[str, dict[str, Any]]
) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Put all that is said of media into one config before the others: the parser lets the last list of media win.

    Args:
        words: A checked command line.
        contents: Of its configs, by the words that name them.

    Returns:
        The words, and the contents of all configs by the words that name them.

    Raises:
        UserError: A medium's recipe cannot be read, or is none for one kind of input; or what is said of a medium is of
            none that is there; or it adds one of almost the same name as one that is there.
    """
    media: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    left_out: set[str] = set()
    origins: dict[str, str] = {}
    added_by: dict[str, str] = {}
    for source, name, value in _stated(words, contents):
        left_out.discard(name)
        if value is None:
            left_out.add(name)
            origins[name] = "left out"
        else:
            recipes = value if isinstance(value, list) else [value]
            media[name], parts[name] = _medium(name, recipes, Path(source).parent)
            origins[name] = " and ".join(map(str, recipes))
            added_by.setdefault(name, source)
    changed: dict[str, str] = {}
    known: dict[str, dict[str, Any]] = {}
    for word, content in contents.items():
        rest = {key: value for key, value in content.items() if key != MEDIA}
        for section, key, into in (("model", "media", media), ("data", "parts", parts)):
            values, inner = _inner(rest.get(section), key)
            if inner is not None:
                rest[section] = values
                _require_sections(inner, f"--config {word}: {section}.{key}")
                merge(into, inner)
        if rest != content:
            changed[word] = f"{yaml.safe_dump(rest, sort_keys=False)}\n\n"
        known[changed.get(word, word)] = rest
    if not media and not parts and not left_out:
        return list(words), dict(contents)
    kept: list[str] = []
    remaining = iter(words)
    for word in remaining:
        option, equals, value = word.partition("=")
        found = _KEY.match(option)
        if not found and not option.startswith(f"--{MEDIA}."):
            kept.append(changed.get(word, word))
            continue
        if not equals:
            value = next(remaining, "")
        if found:
            name, into = found[3], media if found[1] else parts
            if name in left_out:
                raise UserError(f"{option}: {MEDIA}.{name} is left out")
            if not found[4] and value == "null":
                raise UserError(f"{option} null: a medium is left out as a whole: --{MEDIA}.{name} null")
            node = into.setdefault(name, {})
            if value == "null":  # the parser (jsonargparse 4) would read it as a text
                _set(node, found[4].split("."), None)
            else:
                kept += [option, value]
    whole = {name for name, medium in media.items() if "front" in medium or "class_path" in medium}
    whole |= {name for name, part in parts.items() if "class_path" in part}
    for name in [*media, *parts, *left_out]:
        if name not in whole:
            text = f"there is no such medium, and --{MEDIA}.{name} RECIPE would add one"
            raise UserError(f"{MEDIA}.{name}: {text}{suggest(name, sorted(whole))}")
    for name in left_out:
        media.pop(name, None)
        parts.pop(name, None)
        added_by.pop(name, None)
    _require_different(media, added_by)
    joint: dict[str, Any] = {}
    if media:
        joint["model"] = {"class_path": _MODEL, "init_args": {"media": media}}
    if parts:
        joint["data"] = {"class_path": _DATA, "init_args": {"parts": parts}}
    text = yaml.safe_dump(joint, sort_keys=False)
    if origins:
        stated = ", ".join(f"{name} ({origin})" for name, origin in origins.items())
        text = f"{_ORIGINS}{stated}\n{text}"
    return ["--config", text, *kept], {text: joint, **known}


def _require_sections(values: Mapping[str, Any], where: str) -> None:
    for name, value in values.items():
        if not isinstance(value, dict):
            text = f"a medium is a section, and is left out as a whole, {MEDIA}: {{{name}: null}}"
            raise UserError(f"{where}.{name} is {value!r}: {text}")


def origins_of(words: Sequence[str]) -> str:
    """Which media a checked command line has and the recipes of each, in a line; an empty one if it names none."""
    for option, value in options(words):
        if option == "--config" and value.startswith(_ORIGINS):
            return value.partition("\n")[0].removeprefix("# ")
    return ""


def _require_different(media: Mapping[str, Any], added_by: Mapping[str, str]) -> None:
    """Refuse to add a medium of almost the name and of the very front end of one from an earlier config."""
    known: dict[str, str] = {}
    for name, source in added_by.items():
        stem = re.split(r"[\d_-]", name)[0]  # speech2 and speech_de are meant
        for near in get_close_matches(stem, known, cutoff=0.75):
            other = known[near]
            same = _front_class(media[other]) == _front_class(media[name])
            if near != stem and added_by[other] != source and same:
                text = f"there is {other} already, with the same front end; did you mean --{MEDIA}.{other}?"
                raise UserError(f"{MEDIA}.{name}: {text} Two kinds of it could be {other} and {other}_2")
        known.setdefault(stem, name)


def _front_class(medium: Mapping[str, Any]) -> Any:
    front = medium["front"]
    return front.get("class_path") if isinstance(front, dict) else front


def _set(node: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Set a value under a key as users write it, without the ``init_args`` of the classes on the way."""
    for key in keys:
        if "class_path" in node and key != "init_args":
            node = node.setdefault("init_args", {})
        if key == keys[-1]:
            node[key] = value
        else:
            node = node.setdefault(key, {})


def _inner(section: Any, key: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A section without one of its ``init_args``, and that; None: it is not there."""
    args = section.get("init_args") if isinstance(section, dict) else None
    if not isinstance(args, dict) or not isinstance(args.get(key), dict):
        return {}, None
    rest = {name: value for name, value in args.items() if name != key}
    return {**section, "init_args": rest}, args[key]


def _stated(words: Sequence[str], contents: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """Config, name and value of each medium in the order of the configs; the command line, without one, comes last."""
    for word, content in contents.items():
        section = content.get(MEDIA)
        if section is None:
            continue
        if not isinstance(section, dict):
            raise UserError(f"--config {word}: {MEDIA} is {section!r}; it names a recipe each: speech: v2/speech.yaml")
        for name, value in section.items():
            yield word, str(name), value
    for option, value in options(words):
        if option.startswith(f"--{MEDIA}."):
            yield "", option.removeprefix(f"--{MEDIA}."), yaml.safe_load(value)


def _medium(name: str, recipes: Sequence[Any], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What stands under ``model.media`` and ``data.parts``, of one recipe or one with overlays."""
    merged: dict[str, Any] = {}
    for recipe in map(str, recipes):
        beside = folder / recipe
        merge(merged, read_config(beside if beside.is_file() else find_config(recipe)))
    model = (merged.get("model") or {}).get("init_args") or {}
    front = (model.get("student") or {}).get("front")
    if front is None or not merged.get("data"):
        raise UserError(
            f"{MEDIA}.{name}: {' and '.join(map(str, recipes))} is no recipe that pretrains on one kind of input, with "
            "model.student.front and data; take one such as v2/speech.yaml"
        )
    medium = {"front": front}
    for key, part in model.items():
        if key not in _OF_THE_WHOLE:
            medium[key] = part
    return medium, merged["data"]


def read_configs(names: Iterable[str | Path]) -> dict[str, dict[str, Any]]:
    """What configs say, each by its path; given by path or by the name of a shipped one."""
    contents = {}
    for name in names:
        path = find_config(name)
        contents[str(path)] = read_config(path)
    return contents


def parts_named(words: Sequence[str]) -> list[str]:
    """Names of the media of a command line; none if it is of one kind of input alone."""
    names = [value for option, value in options(words) if option == "--config"]
    for content in with_media(words, read_configs(names))[1].values():
        _, parts = _inner(content.get("data"), "parts")
        return list(parts or {})  # all of them stand in the first
    return []


def words_of_media(media: Mapping[str, Any] | None) -> list[str]:
    """Words of a command line for changes to the section ``media``."""
    words = []
    for name, value in (media or {}).items():
        words.append(f"--{MEDIA}.{name}={value if isinstance(value, str | Path) else yaml.safe_dump(value)}")
    return words


def merged_configs(
    names: Iterable[str | Path], modality: str | None = None, changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What several configs say together; of joint ones, what they say of one medium, as a recipe for it alone does.

    Raises:
        UserError: They are joint, and have no such medium; or several, and none is named.
    """
    merged: dict[str, Any] = {}
    for content in with_media(words_of_media(changes), read_configs(names))[1].values():
        merge(merged, content)
    model, media = _inner(merged.get("model"), "media")
    _, parts = _inner(merged.get("data"), "parts")
    if not media and not parts:
        return merged
    media, parts = media or {}, parts or {}
    known = list(media | parts)
    if modality is None and len(known) > 1:
        raise UserError(f"--config: is of several media; say which: --modality NAME, one of {', '.join(known)}")
    modality = modality or known[0]
    if modality not in known:
        raise UserError(f"--modality {modality}: the config has no such medium; it has {', '.join(known)}")
    if modality in media:
        args = {name: value for name, value in model["init_args"].items() if name != "trunk"}
        of_medium = {name: value for name, value in media[modality].items() if name != "front"}
        student = {"front": media[modality].get("front"), "trunk": model["init_args"].get("trunk")}
        merged["model"] = {"init_args": {**args, **of_medium, "student": student}}
    if modality in parts:
        merged["data"] = parts[modality]
    return merged
