"""Reads the docstrings of installed packages from their source, without importing anything."""

import ast
import hashlib
import importlib.util
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

SHORTEST, LONGEST = 200, 4_000
"""Characters of a document; a longer text is cut into several."""
PYTHON = "python"
"""Name of the standard library among the packages."""

# Tests, and other packages inside a package.
_LEFT_OUT = {"test", "tests", "testing", "_testing", "conftest.py"}
_LEFT_OUT |= {"site-packages", "externals", "_vendor", "vendor"}
# Calls that give a docstring to what is written in C, and names of strings that functions share as their docstrings.
_ADDS_DOC = re.compile(r"add_?(new)?doc")
_IS_DOC = re.compile(r"(?i)doc|^topics$")
_LICENCE = re.compile(r"(?i)copyright|\blicen[cs]ed?\b|all rights reserved|redistribut")
# No sentences: directives and labels of reStructuredText, underlines, gaps in templates.
_NO_TEXT = re.compile(r"\.\.(\s.*)?$|[^\w\s]+$|[%{][\w()]+[}s]?$")
# Beginnings of lines that do not continue the line above.
_BEGINS = re.compile(r"[-*+>:@|#]|\.\.\.|\d+[.)]\s")
_COMMON = frozenset(
    re.findall(r"\w+", "a an and are as be by for from if in is it not of on or that the this to which with")
)
_FEWEST_COMMON = 0.12  # share of all words: 30 to 40% of English prose, hardly any of a listing
_FEWEST_LETTERS = 0.7
_NO_LETTERS = re.compile("[^A-Za-z ]+")
# A document is a copy if too many of its runs of six words stand in earlier documents.
_RUN = 6
_MOST_COPIED = 0.3


class Documents:
    """Cleaned documents of packages, none of which is mostly a copy of an earlier one.

    Args:
        most_of_a_file: most documents that are taken from one source file; some have hundreds of one kind.
    """

    def __init__(self, most_of_a_file: int) -> None:
        self._most_of_a_file = most_of_a_file
        self._seen: set[int] = set()

    def of(self, package: str) -> Iterator[list[str]]:
        """The documents of each source file, in an order that depends on nothing but the paths of the files."""
        folder = find_folder(package)
        if folder is None:
            return
        files = [*folder.rglob("*.py"), *folder.rglob("*.pyi")]
        names = [path.relative_to(folder).as_posix() for path in files]
        for name in sorted(names, key=lambda name: hashlib.blake2b(name.encode()).digest()):
            if _LEFT_OUT & set(name.split("/")):
                continue
            documents = []
            for text in find_docstrings(folder / name):
                for part in split(clean(text)):
                    if is_prose(part) and not self._is_copy(part):
                        documents.append(part)
            if documents:
                yield documents[: self._most_of_a_file]

    def _is_copy(self, text: str) -> bool:
        words = re.findall(r"\w+", text.lower())
        # Python's hash differs between processes, but equal runs have equal hashes in each.
        runs = {hash(tuple(words[i : i + _RUN])) for i in range(len(words) - _RUN + 1)}
        copied = len(runs & self._seen)
        self._seen |= runs
        return copied > _MOST_COPIED * len(runs)


def find_folder(package: str) -> Path | None:
    """The folder of a package, or of the standard library; None if it is not installed."""
    if package == PYTHON:
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def find_docstrings(path: Path) -> Iterator[str]:
    """All docstrings in a source file, also those that it gives to C functions; none if it is not Python."""
    try:
        source = path.read_bytes()
        if len(source) < SHORTEST:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in other people's source
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    nodes: list[ast.AST] = [tree]
    for node in nodes:  # grows: in the order of the source, level by level
        inner = getattr(node, "body", None)
        if isinstance(inner, list):
            nodes += inner
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(node, clean=False):
                yield text
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            if _ADDS_DOC.search(ast.unparse(node.value.func)):
                yield from _strings(node.value)
        elif isinstance(node, ast.Assign) and _IS_DOC.search(ast.unparse(node.targets[0])):
            yield from _strings(node.value)


def clean(text: str) -> str:
    """Join the lines of a paragraph, and remove indentation, blank lines and what is no sentence."""
    lines: list[str] = []
    above: int | None = None  # indentation of the line above, if this one may go on there
    in_code = False
    for line in inspect.cleandoc(text).splitlines():
        words = line.strip()
        in_code = bool(words) and (in_code or words.startswith(">>>"))
        if not words or _NO_TEXT.match(words):
            above = None
            continue
        indent = len(line) - len(line.lstrip())
        if indent == above and not _BEGINS.match(words):
            lines[-1] += f" {words}"
        else:
            lines.append(words)
        above = None if in_code else indent + 2 * words.startswith(("- ", "* "))
    return "\n".join(lines)


def split(text: str) -> Iterator[str]:
    """Split between lines into parts of at most :data:`LONGEST` characters; parts that are too short are dropped."""
    part: list[str] = []
    for line in [*text.split("\n"), None]:
        if line is None or sum(map(len, part)) + len(part) + len(line) > LONGEST:
            whole = "\n".join(part)
            if SHORTEST <= len(whole) <= LONGEST:
                yield whole
            part = []
        if line is not None:
            part.append(line)


def is_prose(text: str) -> bool:
    """Whether a text is English prose, and no listing, table or licence."""
    letters = len(_NO_LETTERS.sub("", text))
    words = re.findall(r"[a-z]+", text.lower())
    common = sum(word in _COMMON for word in words)
    return (
        text.isascii()
        and letters >= _FEWEST_LETTERS * len(text)
        and common >= _FEWEST_COMMON * len(words)
        and not _LICENCE.search(text)
    )


def _strings(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and len(inner.value) >= SHORTEST:
            yield inner.value
