"""Token shards: the same whatever made them, read as one stream, and never taken for whole when they are not."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from d2v.data.broken_samples import SkippedSamples
from d2v.errors import BrokenSample, UserError
from d2v.modalities.text.corpus import jobs
from d2v.modalities.text.corpus.blocks import EvenBlocks
from d2v.modalities.text.corpus.preparation import open_shards, prepare_corpus
from d2v.modalities.text.corpus.shard_writer import ShardWriter, dtype_for, write_index
from d2v.modalities.text.corpus.shards import Shards, is_prepared
from d2v.modalities.text.data import TextDataset
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.shares import Share

JOB_BYTES = (2000, 4000)


@pytest.fixture(autouse=True)
def _small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d2v.modalities.text.corpus.corpus_files._JOB_BYTES", JOB_BYTES)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "a.txt"
    documents = [
        f"document {i} of some\nwith größere 漢字 lines 👍🏽 {i * i}\nand {'so on ' * (i % 7)}end" for i in range(150)
    ]
    path.write_text("\n\n".join(documents), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(corpus: Path) -> TextTokenizer:
    return TextTokenizer.train(corpus.read_text(encoding="utf-8").split("\n"), 300)


def prepare(corpus: Path, output: Path, **options: object) -> object:
    return prepare_corpus([str(corpus)], output, vocab_size=300, val_fraction=0.1, **{"num_workers": 1, **options})  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.fixture(scope="module")
def prepared(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("d2v.modalities.text.corpus.corpus_files._JOB_BYTES", JOB_BYTES)
        prepare(corpus, folder, num_workers=1)
    return folder


def test_the_stream_is_the_documents(prepared: Path, corpus: Path) -> None:
    train, val = Shards.open(prepared, "train"), Shards.open(prepared, "val")
    assert train is not None
    assert val is not None
    assert Shards.open(prepared, "test") is None
    assert len(list(prepared.glob("train-*.bin"))) > 3
    tokenizer = train.tokenizer
    found = []
    for shards in (train, val):
        ends = shards.document_ends
        assert len(ends) == shards.num_documents
        assert ends[-1] == shards.num_tokens
        assert ends.dtype == np.int64
        starts = [0, *ends[:-1]]
        found.append([tokenizer.decode(shards.read(a, b)) for a, b in zip(starts, ends, strict=True)])
    documents = [d.replace("\n", "</s>") + "</s></s>" for d in corpus.read_text(encoding="utf-8").split("\n\n")]
    documents[-1] = documents[-1].removesuffix("</s>")  # no empty line comes after it
    assert sorted(found[0] + found[1]) == sorted(documents)
    assert found[0] == [document for document in documents if document not in found[1]]  # in their order
    assert 10 <= len(found[1]) <= 20
    whole = train.read(0, train.num_tokens)
    assert whole.dtype == np.int64
    for start, stop in ((0, 0), (5, 9), (500, 4000), (train.num_tokens - 3, train.num_tokens)):
        assert (train.read(start, stop) == whole[start:stop]).all()
    for start, stop in ((-1, 3), (3, 1), (0, train.num_tokens + 1)):
        with pytest.raises(IndexError):
            train.read(start, stop)
    train.verify()
    sent = pickle.dumps(train)
    assert len(sent) < 10_000
    assert (pickle.loads(sent).read(5, 900) == whole[5:900]).all()
    assert pickle.loads(sent).fingerprint == train.fingerprint != val.fingerprint


def test_few_shards_are_open_at_once(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d2v.modalities.text.corpus.shards._MOST_OPEN", 2)
    train = Shards.open(prepared, "train")
    assert train is not None
    whole = train.read(0, train.num_tokens)
    for start in np.random.default_rng(0).integers(0, train.num_tokens - 300, 50):
        assert (train.read(start, start + 300) == whole[start : start + 300]).all()
    assert len(train._open) == 2


def test_a_shard_that_shrinks_while_it_is_read_is_a_broken_sample(prepared: Path, tmp_path: Path) -> None:
    """Of a memory map the process would die of a bus error here, without a word."""
    folder = Path(shutil.copytree(prepared, tmp_path / "shards"))
    train = Shards.open(folder, "train")
    assert train is not None
    blocks = EvenBlocks(train.num_tokens, 64)
    data = TextDataset(train, blocks, SkippedSamples(str, len(blocks), 0.0))
    assert len(data.load(len(blocks) - 1)[0]) > 1
    last = sorted(folder.glob("train-*.bin"))[-1]
    os.truncate(last, 0)
    with pytest.raises(BrokenSample, match=f"{last} has become shorter"):
        data.load(len(blocks) - 1)
    last.unlink()
    fresh = pickle.loads(pickle.dumps(data))  # as a loading process gets it
    with pytest.raises(BrokenSample, match="No such file or directory"):
        fresh.load(len(blocks) - 1)
    assert len(data.load(0)[0]) == 64


def test_fit_is_told_how_to_name_another_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("words\na\n")
    (tmp_path / "b.jsonl").write_text('{"words": "a"}\n')
    for name in ("a.csv", "b.jsonl"):
        with pytest.raises(UserError, match="prepare it with `d2v prepare text --text_column NAME`, and give"):
            open_shards(str(tmp_path / name), None, 300, str(tmp_path / "out"), 0.1)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_workers_change_nothing(
    prepared: Path, corpus: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "START_METHOD", method)
    prepare(corpus, tmp_path / "out", num_workers=2 if method == "spawn" else 4)  # a spawned one imports torch
    assert content(tmp_path / "out") == content(prepared)


def test_one_job_holds_out_every_tenth_document(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d2v.modalities.text.corpus.corpus_files._JOB_BYTES", (1 << 20, 1 << 20))
    summary = prepare(corpus, tmp_path / "out")
    assert summary.documents == {"train": 135, "val": 15}  # type: ignore[attr-defined]
    val = Shards.open(tmp_path / "out", "val")
    assert val is not None
    assert val.tokenizer.decode(val.read(0, int(val.document_ends[0]))).startswith("document 9 of")


KILLED = """
import os, signal, sys
from d2v.modalities.text.corpus import corpus_files, preparing
from d2v.modalities.text.corpus.preparation import prepare_corpus
from d2v.shares import own_share
corpus, output, job_bytes, jobs = sys.argv[1:]
corpus_files._JOB_BYTES = eval(job_bytes)
run_jobs = preparing.run_jobs
def killed(*args):
    for number, done in enumerate(run_jobs(*args)):
        if number == int(jobs):
            os.kill(os.getpid(), signal.SIGKILL)
        yield done
preparing.run_jobs = killed
print(prepare_corpus([corpus], output, vocab_size=300, val_fraction=0.1, num_workers=1, share=own_share()))
"""


def killed_after(jobs: int, corpus: Path, output: Path, **environment: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", KILLED, str(corpus), str(output), str(JOB_BYTES), str(jobs)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environment})


def test_processes_that_share_the_work_write_the_same_shards(prepared: Path, corpus: Path, tmp_path: Path) -> None:
    """Two at once, as torchrun starts them; one is killed, and goes on afterwards."""
    output = tmp_path / "out"
    first = killed_after(1000, corpus, output, RANK="0", WORLD_SIZE="2")
    second = killed_after(0, corpus, output, RANK="1", WORLD_SIZE="2")
    out, _ = first.communicate(timeout=100)
    second.communicate(timeout=100)
    assert (first.returncode, second.returncode) == (0, -signal.SIGKILL)
    assert out.startswith("share 0 of 2 is done; ")
    assert not is_prepared(output)
    with pytest.raises(UserError, match="processes was 2 and is 1"):
        prepare(corpus, output)
    summary = prepare(corpus, output, share=Share(1, 2))
    assert 0 < summary.encoded < 0.5  # type: ignore[attr-defined]
    assert content(output) == content(prepared)
    assert not prepare(corpus, output, share=Share(0, 2)).created  # type: ignore[attr-defined]


def test_a_kill_keeps_what_is_finished(prepared: Path, corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    ran = killed_after(2, corpus, output)
    _, err = ran.communicate(timeout=100)
    assert ran.returncode == -signal.SIGKILL, err
    assert not is_prepared(output)
    with pytest.raises(UserError, match="is unfinished: run the same"):
        Shards.open(output, "train")
    (output / "train-00004.bin.1.part").write_bytes(b"half")
    with pytest.raises(UserError, match=r"val_fraction was 0.1 and is 0.2\); give another folder"):
        prepare_corpus([str(corpus)], output, vocab_size=300, val_fraction=0.2)
    finished = {path: path.stat().st_mtime_ns for path in output.glob("*.bin")}
    assert len(finished) >= 3
    summary = prepare(corpus, output, num_workers=1)
    assert 0 < summary.encoded < 1  # type: ignore[attr-defined]
    assert content(output) == content(prepared)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_only_one_of_several_callers_works(corpus: Path, prepared: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(prepare, corpus, tmp_path / "out", num_workers=1) for _ in range(3)]
    assert sorted(call.result().created for call in calls) == [False, False, True]  # type: ignore[attr-defined]
    assert content(tmp_path / "out") == content(prepared)


def test_a_failing_worker_leaves_no_half_written_shard(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.jsonl").write_text('{"text": "fine and long enough"}\n' * 100)
    with (tmp_path / "2.jsonl").open("a") as file:
        file.write("{broken")
    for workers in (1, 2):
        with pytest.raises(UserError, match=r"2.jsonl, line 101: no valid JSON"):
            prepare(tmp_path, tmp_path / "out", num_workers=workers)
    assert not list(tmp_path.glob("out/*.part"))
    assert not is_prepared(tmp_path / "out")


def test_other_arguments_and_another_corpus_are_refused(corpus: Path, tmp_path: Path) -> None:
    own = tmp_path / "a.txt"
    own.write_text(corpus.read_text(encoding="utf-8"), encoding="utf-8")
    output = tmp_path / "out"
    prepare(own, output)
    assert prepare(own, output).created is False  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="vocab_size was 300 and is 400"):
        prepare_corpus([str(own)], output, vocab_size=400, val_fraction=0.1)
    with pytest.raises(UserError, match="vocab_size was 300 and is None; tokenizer was None"):
        prepare_corpus([str(own)], output, tokenizer=str(output), val_fraction=0.1)
    own.write_text("other")
    with pytest.raises(UserError, match="files of the input were added, removed or changed"):
        prepare(own, output)
    with pytest.raises(UserError, match=r"holds something else, such as a.txt"):
        prepare(own, tmp_path)
    with pytest.raises(UserError, match=r"val_fraction 0.7"):
        prepare_corpus([str(own)], tmp_path / "new", val_fraction=0.7)
    own.write_text("\n \n\n")
    with pytest.raises(UserError, match="only blank lines"):
        prepare(own, tmp_path / "new")
    own.write_text("some text")
    prepare(own, tmp_path / "new")  # nothing stands in the way


def test_a_large_vocabulary_takes_uint32(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    vocab = json.loads(tokenizer.to_json())
    vocab["model"]["vocab"] |= {f"filler{i}": 1000 + i for i in range(70_000)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocab))
    (tmp_path / "a.txt").write_text("document 1 of some")
    prepare_corpus([str(tmp_path / "a.txt")], tmp_path / "out", tokenizer=str(tmp_path), val_fraction=0)
    shards = Shards.open(tmp_path / "out", "train")
    assert shards is not None
    assert json.loads((tmp_path / "out/index.json").read_text())["dtype"] == "uint32"
    assert shards.read(0, shards.num_tokens).tolist() == [*tokenizer.encode("document 1 of some"), 2]


def write(folder: Path, tokenizer: TextTokenizer, documents: list[list[int]]) -> None:
    writer = ShardWriter(folder, "train", 0, dtype_for(tokenizer))
    for document in documents:
        writer.write(np.array(document, dtype="<u2").tobytes())
        writer.end_document()
    entry = writer.close()
    assert entry is not None
    write_index(folder, tokenizer, {"train": [entry]}, {})


def use(folder: Path) -> None:
    shards = Shards.open(folder, "train")
    assert shards is not None
    assert len(shards.document_ends) == 2
    shards.verify()


def test_damage_is_named(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    write(tmp_path, tokenizer, [[5, 6, 2], [7, 2]])
    shards = Shards.open(tmp_path, "train")
    assert shards is not None
    assert shards.read(0, 5).tolist() == [5, 6, 2, 7, 2]
    shards.verify()
    good = content(tmp_path)

    def damaged(name: str, data: bytes | None, message: str) -> None:
        for file, whole in good.items():
            (tmp_path / file).write_bytes(whole)
        if data is None:
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=message):
            use(tmp_path)

    shard, ends, index = good["train-00000.bin"], good["train-00000.ends.npy"], good["index.json"]
    damaged("train-00000.bin", shard[:-2], r"train-00000.bin is damaged \(8 bytes in place of 10\)")
    damaged("train-00000.bin", None, "is missing")
    damaged("train-00000.bin", b"\1" + shard[1:], r"train-00000.bin was changed since it was written")
    damaged("train-00000.ends.npy", None, "is missing")
    damaged("train-00000.ends.npy", ends[:-4], r"ends.npy is damaged")
    damaged("train-00000.ends.npy", ends[:-8] + ends[-16:-8], "its positions do not fit the index")
    damaged("index.json", index[:-20], r"index.json is damaged")
    damaged("index.json", b'{"format": 1}', r"index.json is damaged \(its entry 'splits'")
    damaged("index.json", index.replace(b'"format": 1', b'"format": 9'), "written by a later d2v")
    damaged("index.json", None, "is unfinished")
    damaged("tokenizer.json", b"{}", r"tokenizer.json is not a tokenizer.json")
    other = TextTokenizer.train(["other"], 256).to_json().encode()
    damaged("tokenizer.json", other, r"tokenizer.json is not the tokenizer that made these shards")
    with pytest.raises(UserError, match="holds no token shards"):
        Shards.open(tmp_path / "nowhere", "train")
    (tmp_path / "tokenizer.json").write_bytes(good["tokenizer.json"])
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match=r"not made by `d2v prepare text`"):
        prepare_corpus([str(tmp_path / "a.txt")], tmp_path)


def test_utf_16_is_recoded_and_what_is_no_text_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = {}
    for name, encoding in (("a", "utf-8"), ("b", "utf-16")):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        (folders[name] / "x.txt").write_text("ქართული ენა\n\nმეორე\n" * 40, encoding=encoding)
    (folders["b"] / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
    for folder in folders.values():
        prepare_corpus([str(folder)], folder / "out", vocab_size=270, num_workers=1)
    assert "1 .db" in caplog.text
    one, other = (Shards.open(folder / "out", "train") for folder in folders.values())
    assert one is not None
    assert other is not None
    assert one.read(0, one.num_tokens).tolist() == other.read(0, other.num_tokens).tolist()
    (folders["b"] / "y.txt").write_bytes("кот и пёс".encode("cp1251"))
    with pytest.raises(UserError, match=r"y\.txt: is not UTF-8 text.*iconv"):
        prepare_corpus([str(folders["b"])], tmp_path / "c", num_workers=1)
