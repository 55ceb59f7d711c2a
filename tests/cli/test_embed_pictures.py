"""`d2v embed` on pictures as a user calls it: folders, files, globs and archives to features in a file."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from encoders import save_checkpoint, vision_encoder
from PIL import Image

import d2v
from d2v.cli import main
from d2v.data.normalisation import IMAGENET
from d2v.modalities.vision.decoding import Picture
from d2v.modalities.vision.transforms import EvalTransform
from d2v.model.encoder import Encoder

WIDTH, SIZE, PATCH = 16, 16, 4
NAMES = ["a/0.png", "a/1.jpg", "b/deep/2.png", "b/3.png"]
SORTED = sorted(NAMES)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return vision_encoder(image_size=SIZE, patch_size=PATCH, width=WIDTH, depth=3, num_heads=2).eval()


@pytest.fixture(scope="module")
def checkpoint(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "last.ckpt"
    return save_checkpoint(encoder, path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four of different sizes, and three files that are none."""
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (20 + 3 * number, 33 - 4 * number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    (root / "empty.png").touch()
    (root / "cut.jpg").write_bytes((root / "a/1.jpg").read_bytes()[:300])
    (root / "notes.txt").write_text("no picture")
    return root


def embed(checkpoint: Path, source: Path | str, output: Path, *options: object) -> int:
    args = ["--checkpoint", checkpoint, "--input", source, "--output", output, "--overwrite", "--num_workers", 0]
    return main(["embed", *map(str, [*args, *options])])


def pixels(path: Path, size: tuple[int, int] = (SIZE, SIZE)) -> torch.Tensor:
    return IMAGENET.apply(EvalTransform(size)(Picture(path.read_bytes())))[None]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_row_a_picture_and_the_broken_ones_named(
    checkpoint: Path,
    encoder: Encoder,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    workers: int,
) -> None:
    output = tmp_path / "x.parquet"
    assert embed(checkpoint, pictures, output, "--num_workers", workers) == 0
    out, err = capsys.readouterr()
    table = pq.read_table(output)
    assert table.column_names == ["id", "embedding", "num_patches"]
    assert table["id"].to_pylist() == SORTED
    assert table["num_patches"].to_pylist() == [16] * 4
    for row, name in zip(table["embedding"].to_pylist(), SORTED, strict=True):
        np.testing.assert_allclose(row, encoder.embed(pixels(pictures / name))[0], atol=1e-5)
    assert "skipped empty.png: the file is empty" in err
    assert "skipped cut.jpg: " in err
    assert "4 pictures (2 skipped): embedding [4, 16] float32 in " in out
    assert json.loads(table.schema.metadata[b"d2v"])["image_size"] == [SIZE, SIZE]
    assert list(tmp_path.iterdir()) == [output]


def test_patches_layers_and_cls(checkpoint: Path, encoder: Encoder, pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.npz"
    x = torch.cat([pixels(pictures / name) for name in SORTED])
    assert embed(checkpoint, pictures, output, "--pool", "none", "--layer", "0,2") == 0
    found = np.load(output)
    assert found["offsets"].tolist() == [0, 16, 32, 48, 64]
    expected = (encoder(x).layers[0] + encoder(x).layers[2]) / 2
    np.testing.assert_allclose(found["embedding"], expected.detach().flatten(0, 1), atol=1e-5)
    assert json.loads(str(found["d2v"]))["layer"] == [0, 2]
    assert embed(checkpoint, pictures, output, "--pool", "cls") == 0
    np.testing.assert_allclose(np.load(output)["embedding"], encoder.embed(x, pool="cls"), atol=1e-5)


def test_another_size(
    checkpoint: Path, encoder: Encoder, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x.npz"
    assert embed(checkpoint, pictures / "b/3.png", output, "--image_size", "24,32") == 0
    found = np.load(output)
    assert (found["id"].tolist(), found["num_patches"].tolist()) == (["3.png"], [48])
    expected = encoder.embed(pixels(pictures / "b/3.png", (24, 32)))
    np.testing.assert_allclose(found["embedding"], expected, atol=1e-5)
    assert embed(checkpoint, pictures, output, "--image_size", 18) == 2
    assert "--image_size 18,18: the encoder cuts pictures into patches of 4" in capsys.readouterr().err


def test_globs_and_archives(checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = [(pictures / name).read_bytes() for name in SORTED]
    for folder in ("named", "unnamed", "tars/train"):
        (tmp_path / folder).mkdir(parents=True)
    for folder, paths in (("named", SORTED), ("unnamed", [None] * 4)):
        rows = [{"bytes": content, "path": path} for content, path in zip(data, paths, strict=True)]
        pq.write_table(pa.table({"image": rows}), tmp_path / folder / "train-0.parquet")
    with tarfile.open(tmp_path / "tars/train/0.tar", "w") as tar:
        for name, content in zip(SORTED, data, strict=True):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    output = tmp_path / "x.npz"
    assert embed(checkpoint, pictures, output) == 0
    expected = np.load(output)["embedding"]
    for source, ids in (
        (tmp_path / "named", SORTED),
        (tmp_path / "unnamed/train-0.parquet", ["0", "1", "2", "3"]),
        (tmp_path / "tars", [f"train/0.tar/{name}" for name in SORTED]),
        (f"{pictures}/**/*[0-9].*", SORTED),
    ):
        assert embed(checkpoint, source, output) == 0, source
        found = np.load(output)
        assert found["id"].tolist() == ids
        np.testing.assert_allclose(found["embedding"], expected, atol=1e-5)


def test_bad_input(checkpoint: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nothing").mkdir()
    output = tmp_path / "x.parquet"
    for args, message in (
        ((tmp_path / "nothing", output), "no images (.jpg, "),
        ((tmp_path / "nowhere", output), "nowhere does not exist"),
        ((f"{pictures}/*.bmp", output), "matches"),
        ((pictures / "notes.txt", output), "of no known kind"),
        ((pictures / "empty.png", output), "not one of 1 pictures could be embedded"),
        ((pictures, output, "--layer", 3), "layer 3 is not there: the encoder has 3 layers, 0 to 2"),
        ((pictures, output, "--layer", "1,-2"), "each of them once"),
        ((pictures, output, "--layer", "1,x"), "no list such as 8,9,10"),
        ((pictures, output, "--image_size", "0"), "--image_size: 0: give one or two numbers of pixels"),
        ((pictures, output, "--image_size", "large"), "--image_size"),
    ):
        assert embed(checkpoint, *args) == 2, message  # type: ignore[arg-type]
        assert message in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["nothing"]


def test_three_lines_of_python(checkpoint: Path, encoder: Encoder) -> None:
    x = torch.randn(2, 3, SIZE, SIZE)
    model = d2v.load(checkpoint)
    features = model.embed(x, layer=[-2, -1])
    torch.testing.assert_close(features, (encoder.embed(x, -2) + encoder.embed(x, -1)) / 2)
