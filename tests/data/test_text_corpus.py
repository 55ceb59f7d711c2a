"""Reading raw text: documents are the same however a file is cut, and nothing of any kind fills the memory."""

import bz2
import gzip
import itertools
import json
import lzma
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from d2v.errors import UserError
from d2v.modalities.text.corpus import documents as reading
from d2v.modalities.text.corpus.corpus_files import Corpus, TextFile, _files
from d2v.modalities.text.corpus.documents import END, LINE, PART, SegmentReader
from d2v.modalities.text.corpus.tokenizer_sample import sample

DOCUMENTS = [
    ["one line"],
    ["two", "lines, größer"],
    ["漢字 and مرحبا 👩\u200d👧"],
    ["spaces  within", "and\ttabs"],
    ["last"],
]


def documents(corpus: Corpus, size: int = 1 << 30) -> list[list[str]]:
    """Lines of documents, without the empty ones between them."""
    return [[line for line in lines if line] for lines in all_lines(corpus, size)]


def all_lines(corpus: Corpus, size: int = 1 << 30) -> list[list[str]]:
    """Lines of documents, each file cut into segments of about ``size`` bytes."""
    found: list[list[str]] = []
    lines: list[str] = []
    parts = ""
    for segment in (segment for file in corpus.files for segment in file.segments(size)):
        for text, mark in SegmentReader(segment, corpus.column).read():
            if mark == END:
                found.append(lines)
                lines = []
            elif mark == PART:
                parts += text
            else:
                lines.append(parts + text)
                parts = ""
    assert not lines
    assert not parts
    return found


def plain(content: list[list[str]]) -> str:
    return "\n\n".join("\n".join(lines) for lines in content) + "\n"


def write_plain(path: Path) -> None:
    path.write_text(plain(DOCUMENTS).replace("\n", " \r\n\t"), encoding="utf-8", newline="")


def write_json(path: Path) -> None:
    rows = [json.dumps({"id": i, "text": " \n".join(lines)}) for i, lines in enumerate(DOCUMENTS)]
    path.write_text("\n".join([*rows, json.dumps({"id": 9, "text": None}), "", json.dumps({"text": " \n "})]))


def write_csv(path: Path) -> None:
    rows = [f'{i},"{chr(10).join(lines)}"' for i, lines in enumerate(DOCUMENTS)]
    path.write_text("\ufeffid,text\r\n" + "\r\n".join(rows) + "\r\n", encoding="utf-8", newline="")


def write_parquet(path: Path) -> None:
    table = pa.table({"text": ["\n".join(lines) for lines in DOCUMENTS] + [None], "id": range(6)})
    pq.write_table(table, path, row_group_size=2)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.txt", write_plain),
        ("A", write_plain),
        ("a.md", write_plain),
        ("a.jsonl", write_json),
        ("a.NDJSON", write_json),
        ("a.json", write_json),
        ("a.csv", write_csv),
        ("a.parquet", write_parquet),
    ],
)
def test_each_kind_however_it_is_cut(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    corpus = Corpus.open([str(tmp_path / name)])
    for size in (1, 7, 30, 1000):
        assert documents(corpus, size) == DOCUMENTS


def test_a_table_between_tabs_knows_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('label\ttext\n0\t"So he said\n1\tit\'s 5" wide\r\n')
    for size in (1, 5, 100):
        assert documents(Corpus.open([str(tmp_path)]), size) == [['"So he said'], ["it's 5\" wide"]]


def test_compressed_files(tmp_path: Path) -> None:
    data = plain(DOCUMENTS).encode()
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(data))
    (tmp_path / "b.bz2").write_bytes(bz2.compress(data))
    (tmp_path / "c.txt.xz").write_bytes(lzma.compress(data))
    (tmp_path / "d.txt.zst").write_bytes(pa.Codec("zstd").compress(data, asbytes=True))
    write_json(tmp_path / "e.jsonl")
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress((tmp_path / "e.jsonl").read_bytes()))
    (tmp_path / "e.jsonl").unlink()
    corpus = Corpus.open([str(tmp_path)])
    assert len(corpus.files) == 5
    assert documents(corpus, 3) == DOCUMENTS * 5
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(UserError, match=f"input {path}: (is damaged|cannot be read)"):
            documents(Corpus.open([str(path)]))


@settings(max_examples=150, deadline=None)
@example(content=[b"     ", b"a"], size=1, longest=5, kind="lines")
@given(
    content=st.lists(
        st.sampled_from([b"\n", b"a", b"bc", b" ", b"\r\n", b"\xc3\xa9", b"\xff", b"word " * 6]),
        min_size=1,
        max_size=40,
    ),
    size=st.integers(1, 40),
    longest=st.integers(5, 20),
    kind=st.sampled_from(["text", "lines"]),
)
def test_a_cut_never_changes_documents(
    tmp_path_factory: pytest.TempPathFactory, content: list[bytes], size: int, longest: int, kind: str
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.txt"
    data = b"".join(content)
    path.write_bytes(data)
    corpus = Corpus([TextFile(str(path), len(data), kind)], "text")  # type: ignore[arg-type]
    lines = [line.decode("utf-8", "replace").strip() for line in data.split(b"\n")]
    official = lines[:-1] if data.endswith(b"\n") else lines  # Python's lines of the file, stripped: fairseq's
    if kind == "lines":
        expected = [[line] for line in lines if line]
        official = [part for line in lines if line for part in (line, "")]
    else:
        expected = [list(run) for full, run in itertools.groupby(lines, key=bool) if full]
        official = official if expected else []
    before, reading._LONGEST = reading._LONGEST, longest
    try:
        # A long line of nothing but spaces is a line; short, it is blank. Content of 5 bytes and more never is.
        if not any(not line.strip() and len(line) >= longest for line in data.split(b"\n")):
            found = all_lines(corpus, size)
            assert [[line for line in document if line] for document in found] == expected
            assert [line for document in all_lines(corpus) for line in document] == official
            leading = next((i for i, line in enumerate(official) if line), 0)
            stream = [line for document in found for line in document]
            assert stream in (official, official[leading:])  # blank lines at the beginning may fill a segment
    finally:
        reading._LONGEST = before


def test_lines_are_fairseqs(tmp_path: Path) -> None:
    """By ``multiprocessing_bpe_encoder.py --keep-empty``: each line of Python's file is stripped, empty ones stay."""
    first = b" \n = Title = \r\n\r\n\t two\xc2\xa0words \n\x0b\n\n \nlast of it"
    (tmp_path / "a.txt").write_bytes(first)
    expected = ["", "= Title =", "", "two\xa0words", "", "", "", "last of it"]
    assert [line.strip() for line in first.decode().replace("\r\n", "\n").split("\n")] == expected
    assert [line for lines in all_lines(Corpus.open([str(tmp_path)])) for line in lines] == expected
    (tmp_path / "b.txt").write_text("\nother file\n\n")
    both = [*expected, "", "", "other file", ""]  # a file is a document, or more: something stands between two
    assert [line for lines in all_lines(Corpus.open([str(tmp_path)])) for line in lines] == both


def test_a_long_line_comes_in_parts_between_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_LONGEST", 64)
    line = "many words of one line " * 40 + "没有空格的句子。" * 30 + "x" * 200
    (tmp_path / "a.txt").write_text(f"{line}\nnext\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": f"{line}\nnext"}))
    for name in ("a.txt", "b.jsonl"):
        (file,) = Corpus.open([str(tmp_path / name)]).files
        items = list(SegmentReader(file.segments(1 << 20)[0], "text").read())
        separator = 1 if name == "b.jsonl" else 0
        assert [mark for _, mark in items[-3 - separator :]] == [LINE] * (2 + separator) + [END]
        assert "".join(text for text, _ in items[: -2 - separator]) == line
        assert max(len(text) for text, _ in items) <= 2 * 64
        assert all(text[0] == " " for text, _ in items[1:10])  # each part begins with a word
        assert any(text.endswith("。") for text, mark in items if mark == PART)


def test_plain_text_without_blank_lines_has_a_document_a_line(tmp_path: Path) -> None:
    lines = [f"review {i}" + " word" * 100 for i in range(3000)]
    (tmp_path / "reviews.txt").write_text("\n".join(lines))
    (tmp_path / "short.txt").write_text("\n".join(lines[:5]))
    corpus = Corpus.open([str(tmp_path)])
    assert corpus.line_files == [str(tmp_path / "reviews.txt")]
    assert documents(corpus, 100_000) == [[line] for line in lines] + [lines[:5]]


def test_invalid_utf_8_is_replaced_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfcaf\xe9 and \xef\xbf\xbd\n\xff\xfe\n")
    (file,) = Corpus.open([str(tmp_path)]).files
    reader = SegmentReader(file.segments(1 << 20)[0], "text")
    assert list(reader.read()) == [("caf\ufffd and \ufffd", LINE), ("\ufffd\ufffd", LINE), ("", END)]
    assert reader.invalid_bytes == 3
    (tmp_path / "a.txt").unlink()
    (tmp_path / "a.jsonl").write_text('{"text": "half \\ud83d pair"}')
    assert documents(Corpus.open([str(tmp_path)])) == [["half \ufffd pair"]]


def test_folders_globs_and_several_inputs(tmp_path: Path) -> None:
    for name in ("b/2.txt", "a/1.txt", "wiki_00", ".hidden", "out/tokenizer.json", "empty.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("" if name == "empty.txt" else name)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\0\0")
    corpus = Corpus.open([str(tmp_path)], exclude=tmp_path / "out")
    assert documents(corpus) == [["a/1.txt"], ["b/2.txt"], ["wiki_00"]]
    corpus = Corpus.open([f"{tmp_path}/b/2.txt", f"{tmp_path}/*/*.txt"])
    assert documents(corpus) == [["b/2.txt"], ["a/1.txt"]]
    before = corpus.fingerprint
    (tmp_path / "b/2.txt").write_text("changed")
    assert corpus.fingerprint != before


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    def write(name: str, content: str) -> str:
        (tmp_path / name).write_text(content)
        return str(tmp_path / name)

    (tmp_path / "nothing").mkdir()
    pq.write_table(pa.table({"words": ["a"], "text": [1]}), tmp_path / "numbers.parquet")
    for given_input, message in (
        ("nowhere.txt", "input nowhere.txt: does not exist"),
        (f"{tmp_path}/*.none", "matches nothing"),
        (f"{tmp_path}/nothing", "the folder holds no text"),
        (write("a.txt", ""), "all 1 files are empty"),
        (write("a.parquet", "no parquet"), r"a.parquet: cannot be read as Parquet"),
        (f"{tmp_path}/numbers.parquet", "the column 'text' holds int64 and no text; name another: --text_column"),
        (write("a.csv", "words,label\nx,1\n"), "no column 'text' among 'words', 'label'; name the one .*--text_column"),
        (write("a.tsv", "words\tlabel\nx\t1\n"), "no column 'text' among 'words', 'label'"),
    ):
        with pytest.raises(UserError, match=message):
            Corpus.open([given_input])
    for name, content, message in (
        ("b.jsonl", '{"text": "a"}\n{"text": \n', r"b.jsonl, line 2: no valid JSON"),
        ("c.jsonl", '{"content": "a"}', "expected an object with the key 'text', there is only 'content'"),
        ("d.json", '["a"]', "is or begins an array; write one object a line"),
        ("h.json", '[\n {"text": "a"}\n]', "line 1: is or begins an array; .* as `jq -c"),
        ("i.jsonl", '"a"', "line 1: expected JSON objects, one a line"),
        ("e.jsonl", '{"text": 3}', "'text' is not text but int"),
        ("f.tsv", "label\ttext\n0\n", r"f.tsv, line 2: has 1 cells"),
        ("g.csv", "label,text\n0\n", r"g.csv, line 2: has 1 cells"),
    ):
        with pytest.raises(UserError, match=message):
            documents(Corpus.open([write(name, content)]))
    assert documents(Corpus.open([f"{tmp_path}/c.jsonl"], column="content")) == [["a"]]
    data = bytearray((tmp_path / "numbers.parquet").read_bytes())
    write_parquet(tmp_path / "cut.parquet")
    data = bytearray((tmp_path / "cut.parquet").read_bytes())
    data[4:60] = bytes(56)
    (tmp_path / "cut.parquet").write_bytes(data)
    with pytest.raises(UserError, match=r"cut.parquet: cannot be read as Parquet"):
        documents(Corpus.open([f"{tmp_path}/cut.parquet"]))


def test_jobs_are_of_about_the_same_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d2v.modalities.text.corpus.corpus_files._JOB_BYTES", (1000, 2000))
    for i in range(50):
        (tmp_path / f"{i:02d}.txt").write_text("x" * 99)
    (tmp_path / "99.txt").write_text("y" * 10_000)
    jobs = Corpus.open([str(tmp_path)]).jobs()
    sizes = [sum(segment.size for segment in job) for job in jobs]
    assert sum(sizes) == 50 * 99 + 10_000
    assert max(sizes) < 1600
    assert len(jobs) == 15


def test_the_sample_is_bounded_and_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d2v.modalities.text.corpus.tokenizer_sample._WINDOW", 1000)
    lines = [f"line number {i:05d} of all" for i in range(8000)]
    content = "\n".join(lines)
    (tmp_path / "a.txt").write_text(content)
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    (tmp_path / "c.csv").write_text("text\n" + content)
    pq.write_table(pa.table({"text": lines}), tmp_path / "d.parquet", row_group_size=40)
    for name in ("a.txt", "b.jsonl", "c.csv", "d.parquet"):
        corpus = Corpus.open([str(tmp_path / name)])
        assert list(sample(corpus)) == lines
        texts = list(sample(corpus, limit=30_000))
        assert texts == list(sample(corpus, limit=30_000))
        assert 10_000 < sum(map(len, texts)) < 32_000
        numbers = [int(text.split()[2]) for text in texts if text.startswith("line number")]
        assert {number // 1000 for number in numbers} == set(range(8))
        if name == "a.txt":
            few = list(sample(corpus, limit=30_000, letters=1000))
            assert sum(map(len, set(" ".join(few).split()))) < 1100
    (tmp_path / "e.txt").write_text("word " * 50_000)  # one line
    assert 20_000 < sum(map(len, sample(Corpus.open([f"{tmp_path}/e.txt"]), limit=30_000))) < 32_000


@pytest.mark.parametrize("name", ["{}.txt", "{}.jsonl", "{}.csv", "{}.txt.gz", "{}.parquet"])
def test_windows_of_the_sample_go_on_into_following_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("d2v.modalities.text.corpus.tokenizer_sample._WINDOW", 10_000)
    texts = [" ".join(f"word{(i * 31 + j * 7) % 997}" for j in range(100)) for i in range(150)]
    for i, text in enumerate(texts):
        path = tmp_path / name.format(f"{i:03d}")
        if path.suffix == ".parquet":
            pq.write_table(pa.table({"text": [text]}), path)
        elif path.suffix == ".gz":
            path.write_bytes(gzip.compress(text.encode()))
        else:
            rows = {".jsonl": json.dumps({"text": text}), ".csv": f"text\n{text}\n"}
            path.write_text(rows.get(path.suffix, text))
    found = list(sample(Corpus.open([str(tmp_path)]), limit=50_000))
    assert 12_000 < sum(map(len, found)) < 51_000  # files of parquet are larger than their text
    whole = [text for text in found if text in texts]
    assert len(whole) >= 15
    assert len(set(whole)) == len(whole)


def test_a_table_without_rows_is_empty(tmp_path: Path) -> None:
    schema = pa.schema({"text": pa.string()})
    pq.ParquetWriter(tmp_path / "0.parquet", schema).close()
    with pytest.raises(UserError, match="all 1 files are empty"):
        Corpus.open([str(tmp_path)])
    write_parquet(tmp_path / "1.parquet")
    assert documents(Corpus.open([str(tmp_path)])) == DOCUMENTS


def test_what_lies_beside_data_is_left_out_of_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sidecars = {
        "README.md": "about it",
        "LICENSE": "terms",
        "license-mit.txt": "terms",
        "dataset_infos.json": '{"text": {"features": 1}}',
        "sub/config.json": '{\n "text": 1\n}\n',
        "sub/short.json": '{"vocab": 3}',
    }
    data = {
        "a.json": '{"text": "one"}',
        "b.json": '{"text": "two"}\n{"text": "three"}\n',
        "licensed.txt": "four",
        "metadata.jsonl": '{"text": "five"}',
    }
    (tmp_path / "sub").mkdir()
    for name, content in sidecars.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=r"holds no text; 6 other files are not text, such as .*LICENSE"):
        Corpus.open([str(tmp_path)])
    for name, content in data.items():
        (tmp_path / name).write_text(content)
    assert documents(Corpus.open([str(tmp_path)])) == [["one"], ["two"], ["three"], ["four"], ["five"]]
    assert "6 files are not text and are left out" in caplog.text
    (tmp_path / "c.json").write_text('{"content": "a"}\n{"content": "b"}\n')  # more than one: data of another key
    with pytest.raises(UserError, match=r"c.json.* only 'content'"):
        documents(Corpus.open([str(tmp_path)]))
    (tmp_path / "c.json").unlink()
    assert documents(Corpus.open([f"{tmp_path}/README.md"])) == [["about it"]]  # who names it wants it


def test_a_folder_of_many_files_is_searched_in_linear_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{i:05d}.txt" for i in range(20_000)]
    monkeypatch.setattr("d2v.modalities.text.corpus.corpus_files.list_files", lambda *_: [*names, "z.png"])
    monkeypatch.setattr("d2v.modalities.text.corpus.corpus_files.is_text", lambda name, _: name.endswith("txt"))
    start = time.process_time()
    assert len(_files(str(tmp_path), "text", None)) == 20_000
    assert time.process_time() - start < 5  # took a minute
