"""`d2v embed` as a user calls it: sound of all kinds to features in a file."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import torch.nn.functional as F
from embedding import embed
from encoders import save_checkpoint, speech_encoder, vision_encoder
from safetensors import safe_open

from d2v.features import encode as embedding
from d2v.features.encode import Row
from d2v.features.feature_files import FORMATS, write_features
from d2v.features.journal import RowJournal
from d2v.model.encoder import Encoder

WIDTH, STRIDE, FIELD = 16, 320, 400
TINY = ((16, 10, 5), *[(16, 3, 2)] * 4, *[(16, 2, 2)] * 2)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    model = speech_encoder(
        width=WIDTH, depth=2, num_heads=2, extractor=TINY, position_layers=1, position_kernel=3, position_groups=2
    )
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(encoder, tmp_path_factory.mktemp("model") / "last.ckpt")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short clip, a long one, another rate in stereo, and three that cannot be used."""
    root = tmp_path_factory.mktemp("sound")
    generator = np.random.default_rng(0)
    for name, seconds, rate, channels in (
        ("b/short.flac", 0.5, 16_000, 1),
        ("a/long.wav", 5.3, 16_000, 1),
        ("c.wav", 1.0, 22_050, 2),
        ("too_short.wav", 0.01, 16_000, 1),
    ):
        (root / name).parent.mkdir(exist_ok=True)
        samples = generator.uniform(-0.5, 0.5, (round(seconds * rate), channels))
        soundfile.write(root / name, samples, rate, subtype="PCM_16")
    (root / "empty.wav").touch()
    (root / "noise.flac").write_bytes(generator.bytes(2_000))
    (root / "notes.txt").write_text("no sound")
    return root


GOOD = ["a/long.wav", "b/short.flac", "c.wav"]


def whole(encoder: Encoder, path: Path) -> torch.Tensor:
    """Frames of a 16 kHz clip in one pass."""
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == 16_000
    x = torch.from_numpy(samples)
    return encoder.embed(F.layer_norm(x, x.shape)[None], pool="none")[0]


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".safetensors"])
def test_a_name_that_is_not_utf_8_is_escaped(checkpoint: Path, sound: Path, tmp_path: Path, suffix: str) -> None:
    for name, source in ((b"caf\xe9.flac", "b/short.flac"), (b"\xe9.wav", "empty.wav")):
        (tmp_path / os.fsdecode(name)).write_bytes((sound / source).read_bytes())
    output = tmp_path / f"features{suffix}"
    assert embed(checkpoint, tmp_path, output) == 0
    if suffix == ".parquet":
        assert pq.read_table(output)["id"].to_pylist() == ["caf\\udce9.flac"]


def test_a_row_a_file_and_the_broken_ones_named(
    checkpoint: Path, encoder: Encoder, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "features.parquet"
    assert embed(checkpoint, sound, output) == 0
    out, err = capsys.readouterr()
    table = pq.read_table(output)
    assert table.column_names == ["id", "embedding", "num_frames", "duration"]
    assert table["id"].to_pylist() == GOOD
    assert table["duration"].to_pylist() == pytest.approx([5.3, 0.5, 1.0])
    assert table["num_frames"].to_pylist() == [(n - FIELD) // STRIDE + 1 for n in (84_800, 8_000, 16_000)]
    features = np.array(table["embedding"].to_pylist())
    for row, name in enumerate(GOOD[:2]):
        np.testing.assert_allclose(features[row], whole(encoder, sound / name).mean(dim=0), atol=1e-5)
    assert json.loads(table.schema.metadata[b"d2v"])["pool"] == "mean"
    for name, reason in (("empty.wav", "empty"), ("noise.flac", "no sound file"), ("too_short.wav", "160 samples")):
        assert any(line.startswith(f"skipped {name}: ") and reason in line for line in err.splitlines()), err
    assert "3 files, 6.8 seconds (3 skipped): embedding [3, 16] float32 in " in out
    assert str(output) in out
    assert [path.name for path in output.parent.iterdir()] == ["features.parquet"]


@pytest.mark.parametrize("workers", [0, 2])
def test_frames_have_times_and_long_files_are_cut(
    checkpoint: Path, encoder: Encoder, sound: Path, tmp_path: Path, workers: int
) -> None:
    output = tmp_path / "features.parquet"
    options = ["--pool", "none", "--layer", 0, "--chunk_seconds", 2, "--overlap_seconds", 1, "--num_workers", workers]
    assert embed(checkpoint, sound, output, *options) == 0
    rows = pq.read_table(output).to_pylist()
    assert [row["id"] for row in rows] == GOOD
    for row in rows:
        assert len(row["embedding"]) == len(row["times"]) == row["num_frames"]
        assert row["first_frame"] == 0
        np.testing.assert_allclose(row["times"], (np.arange(row["num_frames"]) * STRIDE + FIELD / 2) / 16_000)
        assert row["times"][-1] < row["duration"]
    samples, _ = soundfile.read(sound / "b/short.flac", dtype="float32")
    x = torch.from_numpy(samples)
    expected = encoder.embed(F.layer_norm(x, x.shape)[None], layer=0, pool="none")[0]
    np.testing.assert_allclose(np.array(rows[1]["embedding"]), expected, atol=1e-5)


def test_the_same_in_all_formats(checkpoint: Path, sound: Path, tmp_path: Path) -> None:
    names = [f"x.{suffix}" for suffix in ("parquet", "npz", "safetensors")]
    for pool in ("mean", "none"):
        for name in names:
            assert embed(checkpoint, sound, tmp_path / name, "--pool", pool, "--chunk_seconds", 6) == 0
        rows = pq.read_table(tmp_path / names[0]).to_pylist()
        npz = np.load(tmp_path / names[1])
        with safe_open(tmp_path / names[2], "np") as file:
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            ids = json.loads(file.metadata()["id"])
        assert npz["id"].tolist() == ids == GOOD
        assert set(npz.files) == {*arrays, "id", "d2v"}
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, npz[key])
        assert arrays["embedding"].dtype == np.float32
        np.testing.assert_allclose(arrays["duration"], [row["duration"] for row in rows])
        for i, row in enumerate(rows):
            place = slice(*arrays["offsets"][i : i + 2]) if pool == "none" else i
            np.testing.assert_array_equal(arrays["embedding"][place], np.array(row["embedding"], dtype=np.float32))
            if pool == "none":
                np.testing.assert_array_equal(arrays["times"][place], row["times"])


def test_a_very_long_file_is_several_rows_without_pooling(
    checkpoint: Path, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--pool", "none", "--chunk_seconds", 1, "--overlap_seconds", 0.5]
    files = [tmp_path / name for name in ("one.parquet", "parts.parquet", "one.npz", "parts.npz")]
    assert all(embed(checkpoint, sound, file, *options) == 0 for file in files[::2])
    monkeypatch.setattr(embedding, "MAX_FRAMES", 60)
    assert all(embed(checkpoint, sound, file, *options) == 0 for file in files[1::2])
    one, parts = (pq.read_table(file).to_pylist() for file in files[:2])
    long = [row for row in parts if row["id"] == "a/long.wav"]
    assert len(long) > 2
    assert [row["first_frame"] for row in long] == np.cumsum([0, *(len(row["times"]) for row in long)])[:-1].tolist()
    for key in ("embedding", "times"):
        assert [item for row in long for item in row[key]] == one[0][key]
    arrays = [np.load(file) for file in files[2:]]
    assert all(np.array_equal(arrays[0][key], arrays[1][key]) for key in arrays[0].files if key != "d2v")


def test_one_file_or_a_glob(checkpoint: Path, sound: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.npz"
    assert embed(checkpoint, sound / "c.wav", output) == 0
    assert np.load(output)["id"].tolist() == ["c.wav"]
    assert embed(checkpoint, f"{sound}/*/*.*", output) == 0
    assert np.load(output)["id"].tolist() == GOOD[:2]


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_many_clips_are_encoded_together(
    checkpoint: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    root = tmp_path / "sound"
    root.mkdir()
    generator = np.random.default_rng(1)
    for number, seconds in enumerate(generator.uniform(0.1, 2.0, 40)):
        soundfile.write(root / f"{number:02d}.wav", generator.uniform(-0.5, 0.5, round(seconds * 16_000)), 16_000)
    soundfile.write(root / "07b.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    batches: list[torch.Size] = []
    embed_batch = Encoder.embed
    monkeypatch.setattr(
        Encoder, "embed", lambda self, x, *args, **kw: (batches.append(x.shape), embed_batch(self, x, *args, **kw))[1]
    )
    assert embed(checkpoint, root, tmp_path / "x.parquet", "--pool", pool) == 0
    monkeypatch.undo()
    assert len(batches) < 20
    assert sum(rows for rows, _ in batches) == 40
    assert max(rows * length for rows, length in batches) <= 15 * 16_000
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [row["id"] for row in rows] == [f"{number:02d}.wav" for number in range(40)]
    for row in rows:
        frames = whole(encoder, root / row["id"])
        assert row["num_frames"] == len(frames)
        expected = frames.mean(dim=0) if pool == "mean" else frames
        np.testing.assert_allclose(np.array(row["embedding"]), expected, atol=1e-5)


def test_a_file_that_breaks_off_late_leaves_no_rows(
    checkpoint: Path, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embedding, "MAX_FRAMES", 60)
    root = tmp_path / "sound"
    root.mkdir()
    samples, _ = soundfile.read(sound / "a/long.wav")
    samples[-1_000] = np.nan
    soundfile.write(root / "late.wav", samples, 16_000, subtype="FLOAT")
    (root / "short.flac").write_bytes((sound / "b/short.flac").read_bytes())
    options = ["--pool", "none", "--chunk_seconds", 1, "--overlap_seconds", 0.5]
    for suffix in FORMATS:
        alone, both = tmp_path / f"alone{suffix}", tmp_path / f"both{suffix}"
        assert embed(checkpoint, root / "short.flac", alone, *options) == 0
        assert embed(checkpoint, root, both, *options) == 0
        assert capsys.readouterr().err.count("skipped late.wav: it holds values that are not finite") == 1
        if suffix == ".parquet":
            assert pq.read_table(alone).to_pylist() == pq.read_table(both).to_pylist()
        elif suffix == ".npz":
            arrays = [np.load(file) for file in (alone, both)]
            assert all(np.array_equal(arrays[0][key], arrays[1][key]) for key in arrays[0].files if key != "d2v")
        else:
            with safe_open(alone, "np") as one, safe_open(both, "np") as other:
                assert json.loads(other.metadata()["id"]) == ["short.flac"]
                for key in one.keys():  # noqa: SIM118
                    np.testing.assert_array_equal(one.get_tensor(key), other.get_tensor(key))


def test_the_input_is_not_overwritten(
    checkpoint: Path, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    folder = tmp_path / "archives"
    folder.mkdir()
    archive = folder / "x.parquet"
    content = [{"bytes": (sound / name).read_bytes(), "path": name} for name in GOOD]
    pq.write_table(pa.table({"audio": content}), archive)
    before = archive.read_bytes()
    (tmp_path / "link.parquet").symlink_to(archive)
    for source, output in (
        (archive, archive),
        (archive, tmp_path / "link.parquet"),
        (folder, archive),
        (folder, folder / "new.parquet"),
    ):
        assert embed(checkpoint, source, output) == 2
        assert f"--output {output} would be part of --input {source}" in capsys.readouterr().err
    assert archive.read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["x.parquet"]
    assert embed(checkpoint, folder, folder / "new.npz") == 0
    assert np.load(folder / "new.npz")["embedding"].shape == (3, WIDTH)


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_was_there_stays_until_the_new_file_is_whole(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **more: object) -> None:
        raise OSError("no space left on device")

    path = tmp_path / f"x{suffix}"
    journal = RowJournal(tmp_path / "unfinished", {}, 4, True)
    journal.write(Row("a.wav", np.ones(4, np.float32), 3, 0, 0.5, None))
    write_features(path, journal, {})
    before = path.read_bytes()
    journal.write(Row("b.wav", np.ones(4, np.float32), 3, 0, 0.5, None))
    monkeypatch.setattr("d2v.features.feature_files.pq", SimpleNamespace(ParquetWriter=fail))
    monkeypatch.setattr("zipfile.ZipFile.open", fail)
    # Not struct.pack itself, with which pytest-xdist talks to its workers.
    monkeypatch.setattr("d2v.features.feature_files.struct", SimpleNamespace(pack=fail))
    with pytest.raises(OSError, match="no space"):
        write_features(path, journal, {})
    assert path.read_bytes() == before
    journal.close()
    assert RowJournal(tmp_path / "unfinished", {}, 4, True).num_done == 2


def test_bf16_is_close(checkpoint: Path, sound: Path, tmp_path: Path) -> None:
    for precision in ("32", "bf16"):
        assert embed(checkpoint, sound, tmp_path / f"{precision}.npz", "--precision", precision) == 0
    fp32, bf16 = (np.load(tmp_path / f"{precision}.npz")["embedding"] for precision in ("32", "bf16"))
    assert bf16.dtype == np.float32
    assert 0 < np.abs(fp32 - bf16).max() < 0.1


def test_bad_input(checkpoint: Path, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.wav").write_bytes(b"RIFF")
    (tmp_path / "nothing").mkdir()
    vision = save_checkpoint(
        vision_encoder(image_size=16, patch_size=4, width=16, depth=1, num_heads=2), tmp_path / "vision.ckpt"
    )
    output = tmp_path / "out" / "x.parquet"
    for args, message in (
        ((checkpoint, tmp_path / "broken", output), "not one of 1 files could be embedded"),
        ((checkpoint, tmp_path / "nothing", output), "--input: no sound"),
        ((checkpoint, tmp_path / "nowhere", output), "nowhere does not exist"),
        ((checkpoint, sound, tmp_path / "x.csv"), "must end with one of .parquet, .npz, .safetensors"),
        ((checkpoint, sound, output, "--layer", 5), "--layer 5"),
        ((checkpoint, sound, output, "--pool", "cls"), "no CLS token"),
        ((checkpoint, sound, output, "--overlap_seconds", 30), "--chunk_seconds 30 and --overlap_seconds 30"),
        ((checkpoint, sound, output, "--num_workers", -1), "--num_workers -1"),
        ((checkpoint, sound, output, "--device", "cuda:77"), "--device cuda:77"),
        ((tmp_path / "no.ckpt", sound, output), "no.ckpt"),
        ((vision, sound, output), "--input: no images"),
        ((checkpoint, sound, output, "--image_size", 32), "reads no pictures"),
    ):
        assert embed(*args) == 2, message  # type: ignore[arg-type]
        err = capsys.readouterr().err
        assert message in err
        assert "Traceback" not in err
        assert not output.parent.exists() or not list(output.parent.iterdir())
