"""`d2v align`, `d2v embed --space shared` and `d2v search` across media, as a user calls them."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from command_line import D2V, d2v  # noqa: F401  (a fixture)
from encoders import save_checkpoint, speech_encoder, text_encoder, vision_encoder
from PIL import Image
from speech_files import write_audio
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from d2v.features.feature_files import read_pooled
from d2v.features.shared_space import LABELS_SHARE, Projection, read_space

COLOURS = ("red", "green", "blue", "grey")
ROWS = 48


def _words(number: int) -> str:
    return f"a {COLOURS[number % 4]} square, the {number}th"


def _tokenizer() -> str:
    """Bytes as tokens, behind four special ones."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    names = ["<s>", "<pad>", "</s>", "<unk>", *sorted(letters), "<mask>"]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return tokenizer.to_str()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three encoders; coloured squares, tones and words that go together by four kinds, and tables of them."""
    root = tmp_path_factory.mktemp("align")
    torch.manual_seed(0)
    small = {"width": 16, "depth": 1, "num_heads": 2}
    vision = vision_encoder(image_size=16, patch_size=4, **small)
    speech = speech_encoder(extractor=[[16, 10, 5], [16, 8, 8], [16, 8, 8]], position_groups=4, **small)
    text = text_encoder(vocab_size=261, max_positions=64, **small)
    text.assets = {"tokenizer.json": _tokenizer()}
    for name, encoder in (("vision", vision), ("speech", speech), ("text", text)):
        save_checkpoint(encoder, root / f"{name}.ckpt")
    generator = np.random.default_rng(0)
    lines = ["picture\tspeech\ttext\tkind"]
    for number in range(ROWS):
        kind = number % 4
        pixels = generator.integers(0, 60, (16, 16, 3), dtype=np.uint8)
        pixels[..., slice(None) if kind == 3 else kind] += 150
        (root / "pictures").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / "pictures" / f"{number}.png")
        time = np.arange(6_400) / 16_000
        wave = 0.3 * np.sin(2 * np.pi * 200 * 3**kind * time) + 0.01 * generator.standard_normal(len(time))
        write_audio(root / "sounds" / f"{number}.wav", wave.astype(np.float32))
        lines.append(f"pictures/{number}.png\tsounds/{number}.wav\t{_words(number)}\t{COLOURS[kind]}")
    (root / "all.tsv").write_text("\n".join(lines) + "\n")
    (root / "train.tsv").write_text("\n".join(lines[:33]) + "\n")
    (root / "test.tsv").write_text("\n".join([lines[0], *lines[33:]]) + "\n")
    (root / "words.txt").write_text("".join(f"{_words(number)}\n" for number in range(4)))
    return root


def _checkpoints(root: Path, *names: str) -> list[object]:
    options: list[object] = []
    for name in names or ("vision", "speech", "text"):
        options += ["--checkpoint", root / f"{name}.ckpt"]
    return options


@pytest.fixture(scope="module")
def space(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a space of all three media, and features of all in it, in ``features/``."""
    from d2v import align, embed_files

    paths = [made / f"{name}.ckpt" for name in ("vision", "speech", "text")]
    folder = tmp_path_factory.mktemp("space") / "shared"
    align(paths, made / "train.tsv", output=folder, width=8)
    (made / "features").mkdir()
    for path, source in zip(paths, ("pictures", "sounds", "words.txt"), strict=True):
        output = made / "features" / f"{source.partition('.')[0]}.npz"
        embed_files(path, made / source, output, space=folder, num_workers=0)
    return folder


def test_what_belongs_together_is_found_in_all_directions(made: Path, d2v: D2V) -> None:  # noqa: F811
    options = ["--pairs", made / "train.tsv", "--test", made / "test.tsv", "--label", "kind", "--baseline"]
    code, out, err = d2v("align", *_checkpoints(made), *options, "--width", 8)
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    media = ("picture", "speech", "text")
    directions = {f"{one}->{other}" for one in media for other in media if one != other}
    for key in ("recall_at_1", "recall_at_5", "recall_at_10", "chance_at_1"):
        assert found[key].keys() == directions
    assert all(0.2 < chance < 0.3 for chance in found["chance_at_1"].values())
    assert np.mean(list(found["recall_at_1"].values())) > 0.6
    assert found["baseline"]["recall_at_1"].keys() == directions
    assert "picture->speech" in out.splitlines()[2]
    for name in ("vision", "speech", "text"):
        assert read_space(made / f"{name}.ckpt.shared").num_pairs == 32
    code, out, err = d2v("align", *_checkpoints(made), "--test", made / "test.tsv", "--label", "kind")
    assert code == 0, err
    again = json.loads(out.splitlines()[-1])
    assert again["recall_at_1"] == found["recall_at_1"]
    for name in ("vision", "speech", "text"):
        shutil.rmtree(made / f"{name}.ckpt.shared")


def test_the_same_seed_gives_the_same_space(made: Path, tmp_path: Path) -> None:
    from d2v import align

    paths = [made / "vision.ckpt", made / "text.ckpt"]
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        found = align(paths, made / "train.tsv", output=tmp_path / name, num_pairs=16, width=8, seed=seed)
        digests.append(found.space.digest)
        assert read_space(tmp_path / name).digest == found.space.digest
    assert digests[0] == digests[1] != digests[2]


def test_vectors_of_all_media_have_length_one_and_say_their_space(made: Path, space: Path) -> None:
    files = [read_pooled(made / "features" / f"{name}.npz") for name in ("pictures", "sounds", "words")]
    for file in files:
        np.testing.assert_allclose(np.linalg.norm(file.vectors, axis=1), 1, atol=1e-5)
        assert file.vectors.shape[1] == read_space(space).width
        assert file.settings["space"] == read_space(space).digest
    assert [file.settings["modality"] for file in files] == ["vision", "speech", "text"]


def test_searching_all_media_together(made: Path, space: Path, d2v: D2V) -> None:  # noqa: F811
    files = [made / "features" / f"{name}.npz" for name in ("pictures", "sounds", "words")]
    options = ["--output", "found.tsv", "--top", 60]
    queries = ["--query", "5.png", "--query", made / "sounds/6.wav", "--text", _words(3), *_checkpoints(made)]
    code, out, err = d2v("search", *files, *queries, *options)
    assert code == 0, err
    rows = list(csv.DictReader(Path("found.tsv").read_text().splitlines(), delimiter="\t"))
    assert {row["medium"] for row in rows} == {"vision", "speech", "text"}
    assert {row["text"] for row in rows if row["medium"] == "text"} == {_words(number) for number in range(4)}
    assert {row["query"] for row in rows} == {"5.png", str(made / "sounds/6.wav"), _words(3)}
    assert rows[60]["id"] == "6.wav"  # a new file that is the same as a row
    assert float(rows[60]["similarity"]) == pytest.approx(1, abs=1e-4)
    assert f"1: {_words(0)}" in out
    both = ["--together", "--query", "5.png", "--text", "a red", *_checkpoints(made, "text"), "--top", 3]
    both += ["--picture", "sheet.png"]
    code, out, err = d2v("search", *files, *both)
    assert code == 0, err
    assert out.splitlines()[0] == "5.png + a red"
    assert len(out.splitlines()) == 2 + 3 + 1
    assert "5.png" not in "".join(out.splitlines()[1:])
    with Image.open("sheet.png") as picture:
        assert picture.width > 1000


def test_a_table_of_any_format_gives_the_same_pairs(made: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from d2v.features.pairs import read_pairs

    rows = [
        {"picture": "a  b.png", "text": 'he said "no", twice', "kind": "1"},
        {"picture": None, "text": "alone", "kind": "2"},
        {"picture": "c.png", "text": "alone", "kind": "3"},
    ]
    (tmp_path / "x.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    for name, delimiter in (("x.tsv", "\t"), ("x.csv", ",")):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    for name in ("x.jsonl", "x.parquet", "x.tsv", "x.csv"):
        found = read_pairs(tmp_path / name, "--pairs", ["vision", "speech", "text"], "kind")
        assert found.headings == {"vision": "picture", "text": "text"}
        assert found.items == {"vision": ["a  b.png", "c.png"], "text": ['he said "no", twice', "alone"]}
        assert found.labels == ["1", "3"]


def test_a_checkpoint_may_have_more_media_than_the_space(made: Path, space: Path) -> None:
    from d2v.checkpoints.load import load
    from d2v.errors import UserError

    vision, text = made / "vision.ckpt", made / "text.ckpt"
    whole = read_space(space)
    few = replace(whole, media={"vision": whole.media["vision"]})
    assert list(few.encoders_of([vision], ())) == ["vision"]
    with pytest.raises(UserError, match="its encoder is not in the shared space"):
        few.encoders_of([vision, text], ())
    both = {"vision": ("joint", load(vision)), "text": ("joint", load(text))}
    with patch("d2v.features.shared_space.load_encoders", return_value=both):  # one file with both
        assert list(few.encoders_of(["joint"], ())) == ["vision"]


def test_no_item_is_on_both_sides_of_a_split(tmp_path: Path) -> None:
    from d2v.errors import UserError
    from d2v.features.pairs import read_pairs

    rows = [f"{number}.png\tthe {number // 2}th" for number in range(40)]  # two pictures a text
    rows += ["0.png\tthe 7th", "\tnothing else"]
    (tmp_path / "a.tsv").write_text("picture\ttext\n" + "\n".join(rows) + "\n")
    table = read_pairs(tmp_path / "a.tsv", "--pairs", ["vision", "text"])
    for seed in range(5):
        train, test = table.split(0.25, seed)
        assert len(train) + len(test) == 41
        assert 8 <= len(test) <= 10
        for name, positions in table.rows.items():
            assert not set(train.rows[name]) & set(test.rows[name])
            assert set(train.rows[name]) | set(test.rows[name]) == set(positions)
    (tmp_path / "b.tsv").write_text("picture\ttext\n" + "".join(f"{number}.png\tsame\n" for number in range(9)))
    with pytest.raises(UserError, match="at least 9 hang together"):
        read_pairs(tmp_path / "b.tsv", "--pairs", ["vision", "text"]).split(0.5, 0)


def test_parts_are_cut_as_by_adaptive_pooling() -> None:
    from d2v.features.encode import Row
    from d2v.features.part_means import part_means

    frames = np.random.default_rng(0).standard_normal((23, 5)).astype(np.float32)
    rows = [Row("a", frames[:9], 23, 0, None, None), Row("a", frames[9:], 23, 9, None, None)]
    (pooled,) = part_means(rows, 4, None)
    expected = [torch.nn.functional.adaptive_avg_pool1d(torch.from_numpy(frames.T), parts).T for parts in (1, 2, 4)]
    np.testing.assert_allclose(pooled.features, torch.cat(expected).flatten(), atol=1e-6)
    (short,) = part_means([Row("b", frames[:2], 2, 0, None, None)], 8, None)
    assert np.isfinite(short.features).all()
    patches = frames[:20].reshape(4, 5, 5)
    (field,) = part_means([Row("c", frames[:20], 20, 0, None, None)], 2, (4, 5))
    grid = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(patches).permute(2, 0, 1), 2)
    np.testing.assert_allclose(field.features[:5], frames[:20].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(field.features[5:], grid.permute(1, 2, 0).flatten(), atol=1e-6)


def test_equal_items_are_no_negatives_and_missing_ones_change_nothing() -> None:
    from d2v.features.contrastive import contrastive_loss

    vectors = torch.nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    vectors[1] = vectors[0]  # a second row with the same text
    pairs = {"vision": vectors, "text": vectors}
    numbers = torch.arange(4)
    temperature = torch.tensor(0.1).log()
    apart = contrastive_loss(pairs, {"vision": numbers, "text": numbers}, temperature)
    alike = contrastive_loss(pairs, {"vision": numbers, "text": torch.tensor([0, 0, 2, 3])}, temperature)
    assert alike < apart - 0.3
    missing = {"vision": torch.tensor([0, -1, 2, 3]), "text": numbers}
    kept = torch.tensor([0, 2, 3])
    fewer = {name: values[kept] for name, values in pairs.items()}
    expected = contrastive_loss(fewer, {"vision": numbers[:3], "text": numbers[:3]}, temperature)
    torch.testing.assert_close(contrastive_loss(pairs, missing, temperature), expected)


def test_with_labels_vectors_begin_with_roots_of_how_likely_each_is() -> None:
    anchors = np.array([[4, 0], [0, 4], [0, -4]], np.float32)
    projection = Projection("", "", 1, np.ones(2, np.float32), np.eye(2, dtype=np.float32), anchors)
    vectors = projection(np.array([[3, 1], [1, 7]], np.float32))
    likely = np.exp([[4, 0, 0], [0, 4, -4]])
    likely /= likely.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(vectors[:, :3] ** 2, LABELS_SHARE * likely, rtol=1e-5)
    np.testing.assert_allclose(vectors[:, 3:] ** 2, (1 - LABELS_SHARE) * np.eye(2), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert projection.width == 5


def test_rows_of_one_label_are_trained_towards_each_other() -> None:
    from d2v.features.contrastive import fit

    generator = torch.Generator().manual_seed(0)
    kinds = torch.arange(240) % 8
    features = {}
    for name in ("vision", "speech"):
        of_kinds = torch.randn(8, 30, generator=generator, dtype=torch.float64)
        noise = torch.randn(240, 30, generator=generator, dtype=torch.float64)
        features[name] = {1: of_kinds[kinds] + 1.5 * noise}
    pairs = torch.arange(40)
    recalls = []
    for extra in ({}, {"the label": pairs % 8}):
        known = {**features, **{name: {1: torch.eye(8, dtype=torch.float64)} for name in extra}}
        projections, _ = fit(known, {"vision": pairs, "speech": pairs, **extra}, 16, 0)
        vectors = []
        for name in ("vision", "speech"):
            mean, weight = projections.affine(name)
            vectors.append(torch.nn.functional.normalize((features[name][1][40:] - mean) @ weight.T, dim=1))
        nearest = (vectors[0] @ vectors[1].T).argmax(dim=1)
        recalls.append(float((kinds[40:][nearest] == kinds[40:]).double().mean()))
    assert recalls[1] > recalls[0] + 0.1


def test_encoders_that_learn_with_the_space(made: Path, tmp_path: Path, d2v: D2V) -> None:  # noqa: F811
    from d2v import embed_files, load
    from d2v.data.normalisation import normalised
    from d2v.features.shared_space import space_folder
    from d2v.features.unfrozen_space import pyramid
    from d2v.modalities.vision.inputs import open_inputs

    names = ("vision", "text")
    for name in names:
        shutil.copy(made / f"{name}.ckpt", tmp_path)
    options = ["--pairs", made / "train.tsv", "--test", made / "test.tsv", "--label", "kind", "--width", 8]
    code, out, err = d2v("align", *_checkpoints(tmp_path, *names), *options, "--unfreeze")
    assert code == 0, err
    recall = json.loads(out.splitlines()[-1])["recall_at_1"]
    code, out, err = d2v("align", *_checkpoints(tmp_path, *names), *options[2:6])
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["recall_at_1"] == recall
    for name in names:
        assert (tmp_path / f"{name}.ckpt").read_bytes() == (made / f"{name}.ckpt").read_bytes()
    space = read_space(space_folder("shared", tmp_path / "vision.ckpt"))
    learned = space.media["vision"].learned
    assert learned  # at least one epoch helped
    assert all(torch.isfinite(value).all() for value in learned.values())
    embed_files(tmp_path / "vision.ckpt", made / "pictures", tmp_path / "x.npz", space="shared", num_workers=0)
    file = read_pooled(tmp_path / "x.npz")
    encoder = load(tmp_path / "vision.ckpt")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert space.adopt(encoder, "") == "vision"
    assert any(not torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    inputs = open_inputs(str(made / "pictures"), encoder)
    tokens = encoder.embed(normalised(inputs.read(0, 0, None)[None], encoder.assets), "mean", "none")
    pooled = pyramid(tokens, space.media["vision"].parts, inputs.grid)
    np.testing.assert_allclose(space.media["vision"](pooled.numpy())[0], file.vectors[0], atol=1e-5)
    query = ["--checkpoint", tmp_path / "vision.ckpt", "--query", made / "pictures/3.png", "--top", 1]
    code, out, err = d2v("search", tmp_path / "x.npz", *query)
    assert code == 0, err
    assert out.splitlines()[2].split() == ["1.0000", "3.png"]


def test_silence_at_both_ends_of_sound_changes_no_vector(made: Path, space: Path, tmp_path: Path) -> None:
    from d2v import embed_files
    from d2v.data.sound.audio_reader import AudioReader

    for number, silence in ((5, 0), (6, 0), (5, 16_000), (6, 800)):
        with AudioReader(made / "sounds" / f"{number}.wav") as reader:
            wave = reader.read(0, reader.num_samples).numpy()
        write_audio(tmp_path / "sounds" / f"{number}_{silence}.wav", np.pad(wave, silence))
    embed_files(made / "speech.ckpt", tmp_path / "sounds", tmp_path / "x.npz", space=space, num_workers=0)
    file = read_pooled(tmp_path / "x.npz")
    vectors = dict(zip(file.ids, file.vectors, strict=True))
    np.testing.assert_allclose(vectors["5_16000.wav"], vectors["5_0.wav"], atol=1e-5)
    np.testing.assert_allclose(vectors["6_800.wav"], vectors["6_0.wav"], atol=1e-5)
    assert np.abs(vectors["5_0.wav"] - vectors["6_0.wav"]).max() > 0.01


def test_what_sounds_of_a_clip() -> None:
    from d2v.data.sound.sound_inputs import sounding

    tone = 0.3 * torch.sin(torch.arange(8_000) / 5)
    quiet = 0.3 * 10 ** (-35 / 20) * torch.sin(torch.arange(16_000) / 5)
    assert sounding(torch.cat([quiet, tone, quiet])) == (16_000, 24_000)
    assert sounding(torch.zeros(500)) == (0, 500)
    assert sounding(torch.zeros(100)) == (0, 100)
    click = torch.zeros(16_000)
    click[8_000] = 1
    start, stop = sounding(click)
    assert start < 8_000 < stop
    assert stop - start == 3_200


def test_recall_and_chance_by_hand() -> None:
    from d2v.features.pairs import Pairs
    from d2v.features.recall import recall_of

    rows = {"vision": np.array([0, 1, 2, 3]), "text": np.array([0, 1, 2, -1])}
    pairs = Pairs("", {"vision": "picture", "text": "text"}, {"vision": list("abcd"), "text": list("xyz")}, rows, None)
    vectors = {"vision": np.eye(4, dtype=np.float32), "text": np.eye(4, dtype=np.float32)[[0, 2, 1]]}
    found = recall_of(vectors, pairs)
    assert found.at[1] == {"picture->text": pytest.approx(1 / 3), "text->picture": pytest.approx(1 / 3)}
    assert found.at[5]["picture->text"] == 1
    assert found.chance[1]["picture->text"] == pytest.approx(1 / 3)
    labelled = Pairs("", pairs.headings, pairs.items, rows, ["one", "two", "two", "two"])
    assert recall_of(vectors, labelled).at[1]["picture->text"] == 1
    collapsed = {name: np.ones((4, 2), np.float32) for name in vectors}
    assert recall_of(collapsed, pairs).at[1]["picture->text"] == 0  # equal vectors find nothing


def test_bad_tables_and_checkpoints(made: Path, tmp_path: Path, d2v: D2V) -> None:  # noqa: F811
    lines = (made / "all.tsv").read_text().splitlines()
    tables = {
        "one.tsv": ["picture", *(line.split("\t")[0] for line in lines[1:])],
        "few.tsv": lines[:6],
        "alike.tsv": [lines[0], *[lines[1]] * 20],
        "same_text.tsv": [lines[0], *("\t".join([*line.split("\t")[:2], "word", "x"]) for line in lines[1:])],
        "gone.tsv": [*lines[:12], "pictures/gone.png\tsounds/1.wav\tx\tred"],
        "wrong.tsv": [*lines[:12], "sounds/1.wav\tsounds/1.wav\tx\tred"],
        "unlabelled.tsv": [*lines[:12], "pictures/1.png\tsounds/1.wav\tx\t"],
    }
    for name, content in tables.items():
        (tmp_path / name).write_text("\n".join(content) + "\n")
    both = _checkpoints(made, "vision", "text")
    for args, message in (
        ([*both, "--pairs", "none.tsv"], "there is no such table"),
        ([*both, "--pairs", "one.tsv"], "needs columns of two media"),
        ([*_checkpoints(made, "vision"), "--pairs", "few.tsv"], "give --checkpoint for the other media too"),
        ([*both, "--pairs", "few.tsv", "--root", made], "5 usable rows, of which 5 differ; give at least 8"),
        ([*both, "--pairs", "alike.tsv", "--root", made], "20 usable rows, of which 1 differ"),
        ([*both, "--pairs", "same_text.tsv", "--root", made], "column text has not two different items"),
        ([*both, "--pairs", "gone.tsv", "--root", made], "column picture: there is no file pictures/gone.png"),
        ([*both, "--pairs", "wrong.tsv", "--root", made], "'sounds/1.wav' is no file of images"),
        ([*both, "--pairs", "few.tsv", "--label", "colour"], "--label colour"),
        ([*both, "--pairs", "unlabelled.tsv", "--label", "kind"], "line 13: has no kind"),
        ([*both, "--pairs", made / "all.tsv", "--test_fraction", 1], "--test_fraction 1"),
        ([*both], "give --pairs TABLE"),
        ([*both, "--test", made / "all.tsv"], "there is no shared space"),
        ([*both, *_checkpoints(made, "text"), "--pairs", made / "all.tsv"], "write NAME=PATH"),
    ):
        code, _, err = d2v("align", *args, "--output", tmp_path / "out")
        assert (code, message in err) == (2, True), (args, err)
        assert "Traceback" not in err
        assert not (tmp_path / "out").exists()


def test_a_space_of_others(made: Path, space: Path, tmp_path: Path, d2v: D2V) -> None:  # noqa: F811
    torch.manual_seed(5)
    small = {"width": 16, "depth": 1, "num_heads": 2}
    other = save_checkpoint(vision_encoder(image_size=16, patch_size=4, **small), tmp_path / "other.ckpt")
    embed = ["embed", "--input", made / "pictures", "--output", "x.npz", "--num_workers", 0, "--space"]
    code, _, err = d2v(*embed, space, "--checkpoint", other)
    assert code == 2
    assert "its encoder is not in the shared space" in err
    code, _, err = d2v(*embed, space, "--checkpoint", made / "vision.ckpt", "--layer", 0)
    assert code == 2
    assert "leave these options out" in err
    code, _, err = d2v("align", *_checkpoints(made), "--pairs", made / "all.tsv", "--output", space)
    assert code == 2
    assert "--overwrite replaces it" in err
    settings = json.loads((space / "space.json").read_text())
    first = settings["media"]["vision"]
    for change in (
        {"format": 1},
        {"media": {}},
        {"media": {"vision": {**first, "parts": 10**9}}},
        {"media": {"vision": {**first, "checkpoint": 3}}},
        {"media": {"elsewhere": first}},
        {"weights": "all"},
        {"seed": None},
    ):
        folder = tmp_path / "changed"
        shutil.copytree(space, folder, dirs_exist_ok=True)
        (folder / "space.json").write_text(json.dumps({**settings, **change}))
        code, _, err = d2v(*embed, folder, "--checkpoint", made / "vision.ckpt")
        assert code == 2, change
        assert "Traceback" not in err
    (folder / "space.json").write_text("[1]")
    assert d2v(*embed, folder, "--checkpoint", made / "vision.ckpt")[0] == 2
    shutil.copytree(space, folder, dirs_exist_ok=True)
    tensors = folder / "space.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\xff")
    code, _, err = d2v(*embed, folder, "--checkpoint", made / "vision.ckpt")
    assert code == 2
    assert "space.safetensors" in err
    own = ["embed", "--input", made / "pictures", "--output", "own.npz", "--num_workers", 0]
    assert d2v(*own, "--checkpoint", made / "vision.ckpt")[0] == 0
    code, _, err = d2v("search", "own.npz", made / "features/words.npz", "--query", "5.png")
    assert code == 2
    assert "are not in the space of own.npz" in err
    code, _, err = d2v("search", made / "features/words.npz", "--query", "1", "--text", "a red")
    assert code == 2
    assert "give it too" in err
    code, _, err = d2v("search", made / "features/words.npz", "--text", "a red", *_checkpoints(made, "vision"))
    assert code == 2, err
