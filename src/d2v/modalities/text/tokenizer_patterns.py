"""Which regular expressions of a ``tokenizer.json`` are run: those that look at a character no more than a few times.

The library's engine (Oniguruma) goes back and tries again: ``(a+)+$`` takes for ever on a line of a's. So an expression
is alternatives of single characters and classes, of which the last alone may repeat without limit; the expressions of
published models that are not of this form are listed.
"""

import base64
import re
from collections.abc import Iterator
from typing import Any

_CLASS = r"\\[pP]\{\^?\w+\}|\\[a-zA-Z]|\\\W"
_ATOM = rf"(?:{_CLASS}|\[\^?(?:{_CLASS}|[^\]\\\[])+\]|[^\\\[\](){{}}|*+?^$])"
_TOKEN = re.compile(
    rf"(?P<atom>{_ATOM})(?P<times>[*+?]|\{{\d+(?:,\d*)?\}})?|\(\?[!=]{_ATOM}\)|(?P<bar>\|)|(?P<open>\((?:\?i?:)?)"
    r"|(?P<close>\))(?![*+?{])|[\^$]"
)
_FEW = re.compile(r"\?|\{\d\}|\{\d,\d\}")
_MOST_OPTIONAL = 8
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PUBLISHED = (_WORDS + _REST, _WORDS + "{1,3}" + _REST)
"""Of Qwen 2; of Llama 3 and GPT-4."""


def why_not_run(content: Any) -> str | None:
    """What in a ``tokenizer.json`` might take for ever, or end the process; None: nothing."""
    for pattern in _values(content, "Regex"):
        if pattern not in _PUBLISHED and not _is_fast(pattern):
            return f"the regular expression {pattern!r:.100} may take for ever on some text"
    for table in _values(content, "precompiled_charsmap"):
        data = base64.b64decode(table)
        if len(data) < 4 + int.from_bytes(data[:4], "little"):
            return "its precompiled_charsmap is shorter than it says"
    return None


def _is_fast(pattern: str) -> bool:
    position = depth = optional = 0
    repeats = False
    while position < len(pattern):
        token = _TOKEN.match(pattern, position)
        if token is None or (repeats and token["atom"]):
            return False
        depth += bool(token["open"]) - bool(token["close"])
        if token["bar"] and depth == 0:
            repeats = False
        if token["times"]:
            optional += 1
            repeats = not _FEW.fullmatch(token["times"])
        position = token.end()
    return optional <= _MOST_OPTIONAL


def _values(node: Any, key: str) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _values(item, key)
    elif isinstance(node, dict):
        for name, value in node.items():
            if name == key and value is not None:
                yield str(value)
            elif name not in ("vocab", "merges"):  # which hold words
                yield from _values(value, key)
