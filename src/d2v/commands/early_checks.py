"""What is wrong with a command line and can be told from its words and config files alone, before torch is imported."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from d2v.commands.stacked_configs import config_of_resumed_run, parts_in_files, with_added_lists
from d2v.config_messages import suggest
from d2v.configs import SHIPPED, find_config, options, read_config
from d2v.errors import UserError, some_of
from d2v.joint_configs import MEDIA, read_configs, with_media, words_of_media
from d2v.service_keys import require_no_keys

SECTIONS = (
    "seed_everything", "trainer", "model", "data", "media", "checkpoint", "run_name", "length", "validate_every",
    "compile", "on_fault", "resume", "ckpt_path", "for",
)  # fmt: skip
"""Sections and keys at the top level of a config."""

_OPTIONS = (*SECTIONS, "config", "weights_only", "verbose", "return_predictions", "help", "print_config")


def checked_words(command: str, words: Sequence[str]) -> list[str]:
    """The words of a trainer command, with every config by its path, a resumed run's own before them, and lists added.

    Raises:
        UserError: A config cannot be found or read, or has no such section; there is no such option; two configs are
            whole recipes; the data are not there.
    """
    recipes, prepared = _find_configs(words)
    stated: list[Any] = list(recipes.values())
    for path, recipe in recipes.items():
        stated += parts_in_files(recipe, path.parent, set())
    require_no_keys(stated, words)
    for word in prepared:
        _require_option(command, word)
    _require_one_recipe(recipes)
    _require_meant(recipes)
    for number, word in enumerate(prepared):
        if word.startswith(("--model.", "--data.")) and word.endswith(".help"):
            stated = [name for name in prepared[number + 1 : number + 2] if not name.startswith("-")]
            rest = [*prepared[:number], *prepared[number + 1 + len(stated) :]]
            return [command, *rest, word, *(stated or _class_of(word, recipes))]
    contents = {str(path): recipe for path, recipe in recipes.items()}
    resumed = config_of_resumed_run(prepared)
    for word in prepared:
        if resumed and word.startswith(f"--{MEDIA}."):
            text = "a run that goes on keeps its media; a new run starts from its weights: --model.init_from RUN"
            raise UserError(f"{word.partition('=')[0]}: {text}, with the recipe, --config NAME.yaml")
    if resumed:  # what is given on top of it wins
        text = yaml.safe_dump(resumed, sort_keys=False)
        contents = {text: resumed, **contents}
        prepared = ["--config", text, *prepared]
    prepared, known = with_media(prepared, contents)
    if not any(word.startswith(("--print_config", "--help", "-h")) for word in prepared):
        require_roots({**known, **contents}, prepared)
    return [command, *with_added_lists(prepared, known)]


def require_roots_of(
    names: Sequence[str], data: Mapping[str, Any], modality: str | None, media: Mapping[str, Any]
) -> None:
    """The same for a command that reads configs, by path or name, for their data; ``data``, ``media``: changes."""
    contents = read_configs(names)
    words = [f"--data.{key}={value}" for key, value in data.items()]
    require_roots({**with_media(words_of_media(media), contents)[1], **contents}, words, modality)


def require_roots(contents: Mapping[str, dict[str, Any]], words: Sequence[str], modality: str | None = None) -> None:
    """Refuse data that cannot be there.

    A relative name that the user gave may be more than a path, and is left to the DataModule.

    Args:
        contents: Of the configs by the words that name them, in the order in which they are given.
        words: The command line.
        modality: The part of joint data that counts, and that is all of the data for the command line; None: all.

    Raises:
        UserError: There is nothing at ``data.root``, or at that of a part of joint data.
    """
    found: dict[str, _Stated] = {}
    for word, content in contents.items():
        of_user = "\n" not in word and not Path(word).is_relative_to(SHIPPED)
        for key, section in _data_sections(content, modality):
            values = section.get("init_args") or section
            stated = found.setdefault(key, _Stated())
            stated.class_path = str(section.get("class_path", stated.class_path))
            stated.has_dataset |= values.get("dataset") is not None
            if isinstance(values.get("root"), str):
                stated.root, stated.by_recipe = values["root"], not of_user
    for option, value in options(words):
        key, _, name = option.removeprefix("--").replace(".init_args", "").rpartition(".")
        if option == "--data":
            found.setdefault("data", _Stated()).class_path = value
        elif key in found and name == "dataset":
            found[key].has_dataset = True
        elif key in found and name == "root":
            found[key].root, found[key].by_recipe = value, False
    for key, stated in found.items():
        stated.require_there(key)


@dataclass
class _Stated:
    """What is said of data before they are opened."""

    class_path: str = ""
    root: str = ""
    by_recipe: bool = False
    has_dataset: bool = False

    def require_there(self, key: str) -> None:
        root = self.root
        is_path = self.by_recipe or root.startswith(("/", "./", "../", "~"))
        if not root or "://" in root or not is_path or self.has_dataset or not self.class_path.startswith("d2v."):
            return
        if set(root) & set("*?[{,") or Path(root).expanduser().exists():
            return
        parts = Path(root).parts
        if parts[:2] == ("data", "demo") and len(parts) > 2:
            text = f"the demo's data are made by: d2v prepare demo {parts[2]}"
            raise UserError(f"{key}.root {root} does not exist; {text}")
        given = " (as the recipe says)" if self.by_recipe else ""
        text = f"name the folder, file or glob of yours: --{key}.root PATH"
        raise UserError(f"{key}.root {root}{given} does not exist; {text}")


def _data_sections(content: dict[str, Any], modality: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The section ``data``, and its parts where it is joint; or the one part that stands for all of it."""
    data = content.get("data")
    if not isinstance(data, dict):
        return
    yield "data", data
    parts = (data.get("init_args") or data).get("parts")
    for name, part in parts.items() if isinstance(parts, dict) else ():
        if isinstance(part, dict) and modality in (None, name):
            yield "data" if modality else f"data.parts.{name}", part


def _find_configs(words: Sequence[str]) -> tuple[dict[Path, dict[str, Any]], list[str]]:
    """The contents of all configs by their paths, and the words with those paths."""
    recipes: dict[Path, dict[str, Any]] = {}
    prepared: list[str] = []
    remaining = iter(words)
    for word in remaining:
        option, equals, value = word.partition("=")
        if option not in ("--config", "-c"):
            prepared.append(word)
            continue
        name = value if equals else next(remaining, "")
        if not name or name.startswith("--"):
            raise UserError(f"{option}: a value is missing; give a YAML file or the name of a shipped config")
        path = find_config(name)
        recipes[path] = _read(path)
        prepared += ["--config", str(path)]
    return recipes, prepared


def _class_of(option: str, recipes: dict[Path, dict[str, Any]]) -> list[str]:
    """The class that the recipes name for ``--model.help``, ``--data.help`` or that of a part; none for a plain one."""
    keys = option.removeprefix("--").removesuffix(".help").split(".")
    stated: list[str] = []
    for recipe in recipes.values():
        node: Any = recipe
        for key in keys:
            if isinstance(node, dict) and key not in node:
                node = node.get("init_args")
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and "class_path" in node:
            stated = [node["class_path"]]
    if not stated and len(keys) == 1:
        raise UserError(f"{option} explains the keys of a recipe: give one too, --config NAME.yaml {option}")
    return stated


def _read(path: Path) -> dict[str, Any]:
    content = read_config(path)
    for section, values in content.items():
        if section not in SECTIONS:
            raise UserError(f"--config {path}: there is no section {section!r}; there are: {', '.join(SECTIONS)}")
        if section in ("trainer", "checkpoint") and not isinstance(values, dict | None):
            raise UserError(f"--config {path}: {section} is {values!r}; it must be a section with keys")
    return content


def _require_option(command: str, word: str) -> None:
    if not word.startswith("--"):
        return
    option = word.partition("=")[0]
    section = option.removeprefix("--").partition(".")[0].rstrip("+")
    if section == "resume" and command != "fit":
        raise UserError("--resume continues `d2v fit`; this command takes --ckpt_path FILE")
    if section not in _OPTIONS:
        raise UserError(f"{option}: there is no such option{suggest(section, SECTIONS)}")


def _require_one_recipe(recipes: dict[Path, dict[str, Any]]) -> None:
    """Of stacked configs, one at most may be a whole recipe: two would be mixed key by key."""
    whole: dict[Path, str] = {}
    for path, recipe in recipes.items():
        if _is_whole(recipe):
            whole[path] = " on ".join(name.rpartition(".")[2] for name in _classes(recipe)[:2])
    if len(whole) > 1:
        named = " and ".join(f"{path} ({classes})" for path, classes in whole.items())
        raise UserError(
            f"--config: {named} are whole recipes, and a run has one; give one of them, and beside it overlays, such "
            "as v2/sizes/large.yaml or a file of yours with the keys that differ, or single keys (--model.KEY VALUE)"
        )


def _require_meant(recipes: dict[Path, dict[str, Any]]) -> None:
    """An overlay that says what it is `for` lies on that: a shipped recipe by its name, another one by its classes."""
    whole: Path | None = None
    for path, recipe in recipes.items():
        if _is_whole(recipe):
            whole = path
        meant = recipe.get("for")
        if meant is None:
            continue
        fitting = [meant] if isinstance(meant, str) else meant
        text = f"--config {path} is for {some_of(fitting, 5)}"
        if whole is None:
            if any(map(_is_whole, recipes.values())):
                raise UserError(f"{text}, and stands before a recipe, which would overrule it: give it after that")
            continue  # that of a run that goes on
        if whole.is_relative_to(SHIPPED):
            fits = whole.relative_to(SHIPPED).as_posix() in fitting
        else:
            fits = any(_classes(read_config(SHIPPED / name)) == _classes(recipes[whole]) for name in fitting)
        if not fits:
            hint = "leave one of them out"
            if MEDIA in recipes[whole]:
                hint += f", or give it to that medium: --{MEDIA}.NAME '[{fitting[0]}, {path}]'"
            raise UserError(f"{text}, and {whole} is another recipe: {hint}")


def _is_whole(recipe: dict[str, Any]) -> bool:
    return all(_classes(recipe)[:2])


def _classes(recipe: dict[str, Any]) -> list[str]:
    """Of the model, the data and the model's front end, by which a recipe is known; empty where it names none."""
    model = recipe.get("model")
    student = (model.get("init_args") or model).get("student") if isinstance(model, dict) else None
    front = student.get("front") if isinstance(student, dict) else None
    classes = []
    for section in (model, recipe.get("data"), front):
        classes.append(str(section.get("class_path", "")) if isinstance(section, dict) else "")
    return classes
