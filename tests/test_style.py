"""The plainness of src/d2v, which the style of this project asks for, measured per room."""

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "d2v"
# The method reads like the paper, whose formulas are denser than other code.
DENSE_ROOMS = {"model"}
MOST_COMPREHENSIONS = 25  # per 1,000 lines of code
MOST_CONDITIONALS = 15
# Names with one meaning wherever they stand.
REPEATED_NAMES = {"__init__.py", "data.py", "front_end.py", "inputs.py"}
MODALITIES = {"vision", "speech", "text", "audio"}

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENDMARKER}


class Module(NamedTuple):
    """One file of the source."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        return self.path.relative_to(SOURCE).as_posix()

    @property
    def room(self) -> str:
        parts = self.path.relative_to(SOURCE).parts
        return parts[0] if len(parts) > 1 else "."

    def count(self, *kinds: type[ast.AST]) -> int:
        return sum(isinstance(node, kinds) for node in ast.walk(self.tree))

    def code_lines(self) -> int:
        """Lines with code: no blank lines, comments or docstrings."""
        lines: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type not in LAYOUT:
                lines.update(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
                lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        return len(lines)


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found.append(Module(path, text, ast.parse(text)))
    return found


def per_thousand(modules: list[Module], *kinds: type[ast.AST]) -> tuple[float, str]:
    """How often these stand in 1,000 lines of code outside the dense rooms, and a report by room and by file."""
    counts: Counter[str] = Counter()
    code: Counter[str] = Counter()
    by_file: Counter[str] = Counter()
    for module in modules:
        if module.room not in DENSE_ROOMS:
            counts[module.room] += module.count(*kinds)
            code[module.room] += module.code_lines()
            by_file[module.name] = module.count(*kinds)
    lines = []
    for room in sorted(code):
        share = 1000 * counts[room] / max(code[room], 1)
        lines.append(f"{room:<14} {counts[room]:>5} in {code[room]:>6} lines of code: {share:5.1f} per 1,000")
    for name, count in by_file.most_common(12):
        lines.append(f"  most: {name} {count}")
    return 1000 * counts.total() / code.total(), "\n".join(lines)


def test_comprehensions_are_the_exception(modules: list[Module]) -> None:
    share, report = per_thousand(modules, *COMPREHENSIONS)
    assert share <= MOST_COMPREHENSIONS, f"{share:.1f} comprehensions per 1,000 lines of code\n{report}"


def test_conditional_expressions_are_the_exception(modules: list[Module]) -> None:
    share, report = per_thousand(modules, ast.IfExp)
    assert share <= MOST_CONDITIONALS, f"{share:.1f} conditional expressions per 1,000 lines of code\n{report}"


def test_none_stands_inside_another(modules: list[Module]) -> None:
    dense = (*COMPREHENSIONS, ast.IfExp)
    nested: Counter[str] = Counter()
    places = []
    for module in modules:
        for outer in ast.walk(module.tree):
            if not isinstance(outer, dense):
                continue
            inside = [node for node in ast.walk(outer) if node is not outer and isinstance(node, dense)]
            if inside:
                nested[module.room] += 1
                places.append(f"{module.name}:{outer.lineno}")
    report = "\n".join([f"inside another, by room: {dict(nested)}", *places])
    assert not places, report


def test_files_are_named_by_what_they_are(modules: list[Module]) -> None:
    """A name may repeat where the modalities agree on its meaning; commands are named by what a user types."""
    meanings: dict[str, set[str]] = {}
    for module in modules:
        if module.room != "commands" and module.path.name not in REPEATED_NAMES:
            parts = ["MODALITY" if part in MODALITIES else part for part in module.path.relative_to(SOURCE).parts]
            meanings.setdefault(module.path.name, set()).add("/".join(parts))
    assert not {"utils.py", "util.py", "helpers.py"} & set(meanings)
    assert not [path for path in SOURCE.rglob("util*") if path.is_dir()]
    repeated = [f"{name}: {', '.join(sorted(paths))}" for name, paths in meanings.items() if len(paths) > 1]
    assert not repeated, "\n".join(repeated)
