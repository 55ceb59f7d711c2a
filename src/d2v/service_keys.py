"""Keys of services (Weights & Biases, the Hugging Face hub) belong in the environment, and in no config or message."""

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from d2v.errors import UserError

_NAME = r"(?:\w*_)?(?:api_?key|access_key|secret_key|private_key|token|password|passwd|secret)"
_IN_TEXT = re.compile(rf"[\"'{{,\s]{_NAME}[\"']?\s*:\s*[^\s}}]", re.IGNORECASE)
_LIKE_A_KEY = re.compile(r"\bhf_\w{20,}|(?:(?<=://)|(?<=:/)(?!/))[^/\s@]*:[^/\s@]+(?=@)")
"""A token of the Hugging Face hub; name and password in an address, which a path leaves but one stroke of."""


def require_no_keys(contents: Any, words: Sequence[str]) -> None:
    """Refuse a config or command line with a key in it, which would be written into the run's folder.

    Raises:
        UserError: There is one; the message names where it stands, and not the key.
    """
    found = list(_keys_in(contents, ""))
    for number, word in enumerate(words):
        option, equals, value = word.partition("=")
        if not equals:
            value = "".join(words[number + 1 : number + 2])
        if option.startswith("--"):
            name = option.removeprefix("--")
            found += _keys_in({name.rpartition(".")[2]: value}, name.rpartition(".")[0])
            if _IN_TEXT.search(value) and "\n" not in value:
                found.append(name)
    if found:
        raise UserError(
            f"{found[0].strip('.')}: holds the key or password of a service, which would be written into config.yaml; "
            "take it out, and set WANDB_API_KEY, HF_TOKEN or the like in the environment (or log in: wandb login)"
        )


def without_keys(text: str) -> str:
    """A message without keys of the environment, and without passwords in addresses."""
    for name, value in os.environ.items():
        if len(value) >= 8 and re.fullmatch(_NAME, name, re.IGNORECASE):
            text = text.replace(value, "***")
    return _LIKE_A_KEY.sub("***", text)


def hidden_keys(node: Any) -> Any:
    """A config for others to read: three stars stand in place of each key or password."""
    if isinstance(node, list):
        return [hidden_keys(item) for item in node]
    if isinstance(node, dict):
        shown = {}
        for name, value in node.items():
            is_key = re.fullmatch(_NAME, str(name), re.IGNORECASE) and isinstance(value, str) and value
            shown[name] = "***" if is_key else hidden_keys(value)
        return shown
    if isinstance(node, str):
        return without_keys(node)
    return node


def _keys_in(node: Any, key: str) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _keys_in(item, key)
    elif isinstance(node, dict):
        for name, value in node.items():
            named = f"{key}.{name}"
            if re.fullmatch(_NAME, str(name), re.IGNORECASE) and isinstance(value, str) and value:
                yield named
            yield from _keys_in(value, key if name == "init_args" else named)
    elif isinstance(node, str) and without_keys(node) != node:
        yield key
