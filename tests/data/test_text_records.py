"""Records: the same in parts and as a whole, and the line of whatever is wrong."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2v.errors import UserError
from d2v.modalities.text.records import Reading, open_records

ANY = [b"a", b"bc d", b'"', b"\n", b"\n", b"\r\n", b"\r", b"\xc3\xa9", b"\xff", b" ", b"\0"]
BITS = {
    "tsv": [*ANY, b"\t", b"\t"],
    "jsonl": [
        b'{"a":1,"b":"x"}\n', b'{"a":"\\u00e9"}\n', b'{"b":null,"a":[1,{}]}\r\n', b"\n", b" \n", b'{"a":"\xc3\xa9"}\n',
        b'{"a":"\\ud83d"}\n', b'{"a":"\xff"}\n', b"[1]\n", b'{"a":\n', b"1}\n", b'{"a":1},{"a":2}\n',
    ],
}  # fmt: skip


def everything(path: Path, *parts: Reading) -> Any:
    """Cells, places that are no UTF-8, and the error."""
    found, invalid = [], 0
    try:
        for part in parts:
            table = open_records(path, reading=part)
            found += [cells for _, cells in table.rows(table.columns[:2])]
            invalid += table.invalid
    except UserError as error:
        return found, str(error)
    return found, invalid


@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_the_parts_of_a_file_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    content = b"".join(data.draw(st.lists(st.sampled_from(BITS[kind]), max_size=40)))
    header = {"tsv": b"a\tb\n", "jsonl": b'{"a":0,"b":0}\n'}[kind]
    path = tmp_path_factory.mktemp("records") / f"a.{kind}"
    path.write_bytes(header + content)
    cut = data.draw(st.integers(len(header), len(header) + len(content)))
    rows, outcome = everything(path, Reading(stop=cut), Reading(start=cut))
    expected, expected_outcome = everything(path, Reading())
    assert outcome == expected_outcome
    if isinstance(outcome, int):
        assert rows == expected


def test_a_cell_that_goes_on_after_an_even_number_of_quotes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'a,b\na","\nb"\n')
    assert list(open_records(path).rows(["a", "b"])) == [("a.csv:2", ['a"', "\nb"])]


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(*[st.text('ab ,"\n\té漢', max_size=8)] * 2), max_size=20))
def test_csv_as_python_reads_it(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("records") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("a", "b"), *rows])
    with path.open(encoding="utf-8", newline="") as file:
        lines, expected = [1], []
        reader = csv.reader(file)
        for row in reader:
            expected.append((f"a.csv:{lines[-1]}", row))
            lines.append(reader.line_num + 1)
    assert list(open_records(path).rows(["a", "b"])) == expected[1:]


def test_all_kinds_of_tables_are_read_alike(tmp_path: Path) -> None:
    rows = [(str(i), f'text {i}, "quoted"\nand a second line é') for i in range(100)]
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *rows])
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in rows))
    (tmp_path / "a.tsv").write_text("id\ttext\n" + "".join(f'{i}\t"{i}\n' for i, _ in rows))
    tables = [open_records(tmp_path / f"a.{kind}") for kind in ("csv", "jsonl", "tsv")]
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


def test_no_more_is_read_than_a_record_at_a_time(tmp_path: Path) -> None:
    """Also after a quote that is never closed."""
    path = tmp_path / "a.csv"
    path.write_text('a,b\n5" wide,x\n' + "some,words\n" * 10_000)
    table = open_records(path)
    rows = table.rows(["b"])
    assert [next(rows)[1], next(rows)[1]] == [["x"], ["words"]]
    assert table.read_bytes == len('a,b\n5" wide,x\nsome,words\n')
    assert sum(1 for _ in rows) == 9_999
