"""Records: the same a block at once and one by one, and the line of whatever is wrong."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2v.errors import UserError
from d2v.modalities.text import records
from d2v.modalities.text.records import Delimited, JsonLines, Reading, open_records

ANY = [b"a", b"bc d", b'"', b"\n", b"\n", b"\r\n", b"\r", b"\xc3\xa9", b"\xff", b" ", b"\0"]
BITS = {
    "csv": [*ANY, b",", b",", b'""', b'"x\ny"'],
    "tsv": [*ANY, b"\t", b"\t"],
    "jsonl": [
        b'{"a":1,"b":"x"}\n', b'{"a":"\\u00e9"}\n', b'{"b":null,"a":[1,{}]}\r\n', b"\n", b" \n", b'{"a":"\xc3\xa9"}\n',
        b'{"a":"\\ud83d"}\n', b'{"a":"\xff"}\n', b"[1]\n", b'{"a":\n', b"1}\n", b'{"a":1},{"a":2}\n',
    ],
}  # fmt: skip


def everything(path: Path, one_by_one: bool) -> Any:
    """Rows, places that are no UTF-8, and the error."""
    found = []
    table = None
    try:
        table = open_records(path, reading=Reading(one_by_one=one_by_one))
        found += table.rows(table.columns[:2])
    except UserError as error:
        return found, str(error)
    return found, table.invalid


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_block_at_once_and_one_by_one_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    size = data.draw(st.sampled_from([2, 10, 30, 1000]))
    content = b"".join(data.draw(st.lists(st.sampled_from(BITS[kind]), max_size=40)))
    header = {"csv": b"a,b\n", "tsv": b"a\tb\n", "jsonl": b'{"a":0,"b":0}\n'}[kind]
    path = tmp_path_factory.mktemp("records") / f"a.{kind}"
    path.write_bytes(header + content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_BLOCK", size)
        rows, outcome = everything(path, one_by_one=False)
    expected, expected_outcome = everything(path, one_by_one=True)
    assert outcome == expected_outcome
    if isinstance(outcome, int):
        assert rows == expected


def test_a_cell_that_goes_on_after_an_even_number_of_quotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_BLOCK", 2)
    path = tmp_path / "a.csv"
    path.write_bytes(b'a,b\na","\nb"\n')
    assert everything(path, one_by_one=False) == everything(path, one_by_one=True)
    assert everything(path, one_by_one=False)[0] == [("a.csv:2", ['a"', "\nb"])]


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(*[st.text('ab ,"\n\té漢', max_size=8)] * 2), max_size=20),
    size=st.sampled_from([2, 20, 1000]),
)
def test_csv_as_python_reads_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], size: int
) -> None:
    path = tmp_path_factory.mktemp("records") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("a", "b"), *rows])
    with path.open(encoding="utf-8", newline="") as file:
        lines, expected = [1], []
        reader = csv.reader(file)
        for row in reader:
            expected.append((f"a.csv:{lines[-1]}", row))
            lines.append(reader.line_num + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_BLOCK", size)
        assert list(open_records(path).rows(["a", "b"])) == expected[1:]


def test_blocks_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ordinary files never take the slow path."""
    monkeypatch.setattr(records, "_BLOCK", 300)
    rows = [(str(i), f'text {i}, "quoted"\nand a second line é') for i in range(100)]
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *rows])
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in rows))
    (tmp_path / "a.tsv").write_text("id\ttext\n" + "".join(f'{i}\t"{i}\n' for i, _ in rows))
    tables = [open_records(tmp_path / f"a.{kind}") for kind in ("csv", "jsonl", "tsv")]
    for kind in (Delimited, JsonLines):
        monkeypatch.setattr(kind, "_read_one_by_one", lambda *_: pytest.fail("one by one"))
    assert [tuple(cells) for _, cells in tables[0].rows(["id", "text"])] == rows
    assert [tuple(cells) for _, cells in tables[1].rows(["id", "text"])] == rows
    assert [cells for _, cells in tables[2].rows(["text"])] == [[f'"{i}'] for i, _ in rows]


@pytest.mark.parametrize("start", [0, 40])
def test_an_error_names_the_line_of_the_file(tmp_path: Path, start: int) -> None:
    """Also where a part of it is read."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' * 10 + "{broken\n")
    with pytest.raises(UserError, match=r"^input .*a\.jsonl, line 11: no valid JSON"):
        list(open_records(path, reading=Reading("input", start, how_to_name="--text_column NAME")).rows(["text"]))


def test_many_lines_take_little_memory(tmp_path: Path) -> None:
    """A quote that is never closed does not make a block of the whole file."""
    path = tmp_path / "a.csv"
    path.write_text('a,b\n5" wide,x\n' + "some,words\n" * 400_000)
    blocks: list[int] = []
    table = open_records(path)
    assert isinstance(table, Delimited)
    read = table._read_at_once
    table._read_at_once = lambda line, block, columns: (blocks.append(len(block)), read(line, block, columns))[1]  # type: ignore[method-assign]
    assert sum(1 for _ in table.rows(["b"])) == 400_001
    assert len(blocks) > 1
    assert max(blocks) <= 2 * records._BLOCK + 100
