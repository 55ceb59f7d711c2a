"""Tokenizers: what goes in comes back, ids are those of Hugging Face and fairseq, and each form is found."""

# ruff: noqa: RUF001  (texts in many scripts)

import json
import os
import pickle
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import RobertaTokenizer

from d2v.data.file_index import PackedStrings
from d2v.errors import UserError
from d2v.modalities.text.corpus.encoding import LineEncoder, splits_at_spaces
from d2v.modalities.text.labelled.examples import Examples
from d2v.modalities.text.labelled.sequences import tokenise
from d2v.modalities.text.special_tokens import HIDDEN
from d2v.modalities.text.tokenizer import TextTokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's what they'll do, isn't it?",
    "Der schnelle braune Fuchs springt über den faulen Hund; größer, höher, weiter!",
    "敏捷的棕色狐狸跳过懒狗。人工智能是计算机科学的一个分支。",
    "الثعلب البني السريع يقفز فوق الكلب الكسول",
    "Pijamalı hasta yağız şoföre çabucak güvendi. İstanbul'da ıssız bir ığdır.",
    "Съешь же ещё этих мягких французских булок",
    "def f(x):\n\treturn x ** 2    # 3.14159",
] * 4

NASTY = [
    "",
    " ",
    "   leading and trailing   ",
    "many     spaces  in  between",
    "tab\tand\t\ttabs \t mixed",
    "line\nbreaks\r\nand\r returns\n\n\n",
    "nul\0byte and \x01\x02\x1b[0m control \x7f",
    "zero\u200bwidth \u200c non\u200djoiner \ufeff bom \u2060",
    "👩\u200d👩\u200d👧\u200d👦 family, 🏳️\u200d🌈 flag, 👍🏽 tone, 🇩🇪 letters, 1️⃣ keycap",
    "e\u0301 combining, é composed, Z\u0351\u036b\u0343\u036a a\u0300\u0301\u0302\u0303\u0304",
    "\u202eright to left override\u202c and \u2066isolate\u2069",
    "مرحبا بالعالم ١٢٣ وَعَلَيْكُم",
    "שָׁלוֹם עולם",
    "漢字 かな カナ 한국어 ｆｕｌｌ　ｗｉｄｔｈ",
    "I'm you're we've he'd she'll it's 'tis rock'n'roll ’s “quotes”",
    "x² ½ Ⅷ ٣ 三 1,000.50 0x1F 10¹⁰",
    "\u00a0no-break\u2003em\u3000ideographic\u2028line\u2029paragraph\x85next\x1cfile",
    "_under_score_ __init__ a_b ._. -- ... !!! ?!",
    "<s> and </s> and <pad> <mask> <unk> [CLS]",
    "\U0010ffff \ufffd \ufffe \U000e0041 \u0378",
    "word " * 50 + "end",
    "한" * 100 + "a" * 300 + "。" * 5,
]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train(TEXTS, 560)


def write_pair(folder: Path, tokenizer: TextTokenizer, names: tuple[str, str] = ("vocab.json", "merges.txt")) -> None:
    """Files of RoBERTa's form, ids as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    model = json.loads(tokenizer.to_json())["model"]
    (folder / names[0]).write_text(json.dumps(model["vocab"]))
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / names[1]).write_text("\n".join(merges) + "\n", encoding="utf-8")


def write_fairseq(folder: Path, tokenizer: TextTokenizer) -> dict[str, int]:
    """GPT-2's pair without special tokens, and a dict.txt in another order: what each type's id must be."""
    folder.mkdir(parents=True, exist_ok=True)
    model = json.loads(tokenizer.to_json())["model"]
    types = [name for name, i in sorted(model["vocab"].items(), key=lambda entry: entry[1]) if i >= 4]
    types = [name for name in types if name != "<mask>"]
    gpt2 = {name: i for i, name in enumerate([*types, "<|endoftext|>"])}
    (folder / "encoder.json").write_text(json.dumps(gpt2))
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "vocab.bpe").write_text("\n".join(merges) + "\n", encoding="utf-8")
    order = sorted(gpt2, key=lambda name: (gpt2[name] * 7919) % 1009)
    lines = [f"{gpt2[name]} {1000 - i}" for i, name in enumerate(order)]
    lines += ["madeupword0000 0", "madeupword0001 0"]
    (folder / "dict.txt").write_text("\n".join(lines) + "\n")
    return {name: i for i, name in enumerate(order, 4)}


@cache
def hugging_face(tokenizer_json: str) -> RobertaTokenizer:
    """Of the same vocabulary and merges, put together by transformers."""
    model = json.loads(tokenizer_json)["model"]
    return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])


def sequence(tokenizer: TextTokenizer, *texts: str, max_length: int) -> list[int]:
    """What a model reads of a text or a pair."""
    columns = tuple(PackedStrings([text]) for text in texts)
    return tokenise(Examples(columns, None, PackedStrings(["x:1"])), tokenizer, max_length)[0].tolist()


def test_ids_of_special_tokens_and_length(tokenizer: TextTokenizer) -> None:
    assert len(tokenizer) == 565
    assert (tokenizer.bos_id, tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert tokenizer.mask_id == 564
    assert len(TextTokenizer.train([], 600)) == 256 + 5
    with pytest.raises(UserError, match="vocab_size 200: the 256 bytes"):
        TextTokenizer.train([], 200)


def test_what_goes_in_comes_back(tokenizer: TextTokenizer) -> None:
    for text in [*NASTY, *TEXTS]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    for text, ids in zip(NASTY, tokenizer.encode_batch(NASTY), strict=True):
        assert ids.tolist() == tokenizer.encode(text)
        assert not {0, 1, 2, 3, 564} & set(ids.tolist())
    assert tokenizer.decode(tokenizer.encode("half \ud83d pair, whole \ud83d\ude00")) == "half \ufffd pair, whole 😀"


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_comes_back(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_special_token_that_the_text_is_full_of_does_not_become_a_type() -> None:
    trained = TextTokenizer.train(["<s>old</s> <s>price</s> <mask> <mask>"] * 20, 300)
    for text in ("<s>old</s>", "<mask>", "a<pad><unk>"):
        ids = trained.encode(text)
        assert trained.decode(ids) == text
        assert not {0, 1, 2, 3, trained.mask_id} & set(ids)


def test_training_does_not_depend_on_the_process(tokenizer: TextTokenizer) -> None:
    code = (
        "import sys, json; from d2v.modalities.text.tokenizer import TextTokenizer;"
        "print(TextTokenizer.train(json.load(sys.stdin), 560).fingerprint)"
    )
    for threads in ("1", "4"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        ran = subprocess.run(
            [sys.executable, "-c", code], input=json.dumps(TEXTS), capture_output=True, text=True, env=environment
        )
        assert ran.stdout.strip() == tokenizer.fingerprint, ran.stderr


def test_ids_are_those_of_hugging_face(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    write_pair(tmp_path, tokenizer)
    ours = TextTokenizer.open(tmp_path)
    theirs = hugging_face(tokenizer.to_json())
    theirs_of_our_file = Tokenizer.from_str(tokenizer.to_json())
    for text in [*NASTY, *TEXTS]:
        # Theirs reads special tokens that stand in the text, unless told not to.
        ids = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert ours.encode(text) == ids
        assert tokenizer.encode(text) == ids
        if "<s>" not in text:
            assert sequence(ours, text, max_length=10_000) == theirs(text)["input_ids"]
            assert sequence(ours, text, "and b", max_length=10_000) == theirs(text, "and b")["input_ids"]
            assert theirs_of_our_file.encode(text).ids == theirs(text)["input_ids"]


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_ids_of_any_text_are_those_of_hugging_face(tokenizer: TextTokenizer, text: str) -> None:
    theirs = hugging_face(tokenizer.to_json())
    assert tokenizer.encode(text) == theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def test_ids_are_those_of_fairseq(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    expected = write_fairseq(tmp_path, tokenizer)
    ours = TextTokenizer.open(tmp_path)
    assert len(ours) == 4 + 561 + 2 + 1  # <|endoftext|> is a type of GPT-2
    assert (ours.bos_id, ours.pad_id, ours.eos_id, ours.unk_id, ours.mask_id) == (0, 1, 2, 3, 567)
    # As Hugging Face converts it: the same vocabulary under fairseq's ids.
    model = json.loads(tokenizer.to_json())["model"]
    vocab = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, **expected}
    vocab |= {"madeupword0000": 565, "madeupword0001": 566, "<mask>": 567}
    theirs = RobertaTokenizer(vocab=vocab, merges=[tuple(pair) for pair in model["merges"]])
    for text in [*NASTY, *TEXTS]:
        ids = ours.encode(text)
        assert ids == theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert [expected[tokenizer.backend.id_to_token(i)] for i in tokenizer.encode(text)] == ids


def test_types_that_the_dictionary_lacks_are_unknown(
    tokenizer: TextTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # fairseq-preprocess writes only types that came up (transformers#9290, RobBERT).
    ids = write_fairseq(tmp_path, tokenizer)
    whole = TextTokenizer.open(tmp_path)
    merges = json.loads(tokenizer.to_json())["model"]["merges"]
    inner = next("".join(pair) for pair in merges if any("".join(pair) in later for later in merges))
    lines = (tmp_path / "dict.txt").read_text().splitlines()
    missing = {ids["q"], ids[inner]}  # a byte, and a type that longer ones are merged from
    (tmp_path / "dict.txt").write_text("\n".join(line for i, line in enumerate(lines, 4) if i not in missing))
    ours = TextTokenizer.open(tmp_path)
    assert "lacks 2 of 561 types" in caplog.text
    assert len(ours) == len(whole) - 2
    assert ours.mask_id == len(ours) - 1
    for text in [*NASTY, *TEXTS]:
        expected = whole.encode(text)
        for place, i in enumerate(expected):
            expected[place] = 3 if i in missing else i - sum(i > other for other in missing)
        assert ours.encode(text) == expected
        packed = b"".join(i.to_bytes(2, "little") for i in expected)
        assert LineEncoder(pickle.loads(pickle.dumps(ours)), "uint16").encode([text]) == [packed]
    assert any(3 in ours.encode(text) for text in TEXTS)


def trained(
    model: models.Model, trainer: trainers.Trainer, words: pre_tokenizers.PreTokenizer | None = None
) -> Tokenizer:
    backend = Tokenizer(model)
    if words is not None:
        backend.pre_tokenizer = words
    # Merges of this BPE can spell <mask>, whose name is a type already.
    backend.train_from_iterator(["the cat sat on a mat x<mask>y < mask > [MASK] </s>"] * 20, trainer)
    return backend


def kinds_of_tokenizer() -> dict[str, Tokenizer]:
    quiet = {"special_tokens": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "show_progress": False}
    spaces = pre_tokenizers.WhitespaceSplit()
    unigram = trainers.UnigramTrainer(vocab_size=60, unk_token="<unk>", **quiet)
    found = {
        "Unigram": trained(models.Unigram(), unigram, pre_tokenizers.Metaspace()),
        "WordLevel": trained(models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(**quiet), spaces),
        "WordPiece": trained(models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer(**quiet), spaces),
        "BPE": trained(models.BPE(byte_fallback=True), trainers.BpeTrainer(vocab_size=150, **quiet)),
        "BPE as Llama 3": trained(models.BPE(ignore_merges=True), trainers.BpeTrainer(**quiet), spaces),
    }
    found["Unigram"].normalizer = normalizers.Replace("[X]", "<mask>")
    found["Unigram"].add_special_tokens(["<extra_id_0>"])
    found["Unigram"].add_tokens(["[URL]"])  # means to be found in a text
    added = trained(models.BPE(), trainers.BpeTrainer(show_progress=False))
    added.add_tokens(quiet["special_tokens"])  # as if they were not special
    return found | {"added": added}


@pytest.mark.parametrize("kind", ["Unigram", "WordLevel", "WordPiece", "BPE", "BPE as Llama 3", "added"])
def test_special_tokens_in_a_text_are_text(kind: str) -> None:
    backend = kinds_of_tokenizer()[kind]
    ours = TextTokenizer(backend.to_str())
    assert len(ours) == max(backend.get_vocab().values()) + 1
    special = ("<s>", "<pad>", "</s>", "<mask>", "<extra_id_0>")
    numbers = {backend.token_to_id(name) for name in special} - {None}
    assert {ours.bos_id, ours.pad_id, ours.eos_id, ours.mask_id} <= numbers
    for text in (*special, "the cat <mask> sat </s>on[X] a<pad> mat [URL] <extra_id_0>", "[MASK] <s>x</s>"):
        ids = ours.encode(text)
        assert not numbers & set(ids), text
        assert LineEncoder(ours, "uint16").encode([text]) == [b"".join(i.to_bytes(2, "little") for i in ids)]
    for text in ("the cat sat on a mat", "a [URL] tax", "xyzzy"):
        assert ours.encode(text) == backend.encode(text, add_special_tokens=False).ids
    for name, number in backend.get_vocab().items():
        assert ours.backend.id_to_token(number).removesuffix(HIDDEN) == name
    assert "<mask>" in ours.decode([ours.mask_id or 0])


def test_each_form_is_found(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    ids = tokenizer.encode(TEXTS[0])
    run = tmp_path / "run"
    run.mkdir()
    tokenizer.save(run / "tokenizer.json")
    write_pair(tmp_path / "pair", tokenizer)
    write_pair(tmp_path / "prefix", tokenizer, ("roberta-vocab.json", "roberta-merges.txt"))
    write_fairseq(tmp_path / "fairseq", tokenizer)
    trained = tmp_path / "trained" / "checkpoints"
    trained.mkdir(parents=True)
    for path in (tmp_path / "last.ckpt", trained / "last.ckpt"):
        torch.save({"d2v": {"encoders": {"": {"assets": {"tokenizer.json": tokenizer.to_json()}}}}}, path)
    for path in (run, run / "tokenizer.json", tmp_path / "last.ckpt", tmp_path / "trained"):
        assert TextTokenizer.open(path).fingerprint == tokenizer.fingerprint
    for path in ("pair", "pair/vocab.json", "prefix/roberta", "prefix/roberta-", "prefix/roberta-merges.txt"):
        assert TextTokenizer.open(str(tmp_path / path)).encode(TEXTS[0]) == ids
    assert TextTokenizer.open(tmp_path / "fairseq").encode(TEXTS[0]) != ids
    (tmp_path / "fairseq" / "tokenizer.json").write_text("{}")  # of GPT-2, which dict.txt puts in order
    assert len(TextTokenizer.open(tmp_path / "fairseq")) == 568
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode(TEXTS[0]) == ids
    assert TextTokenizer.from_json(tokenizer.to_json()).fingerprint == tokenizer.fingerprint


def test_what_is_no_tokenizer_is_named(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    write_fairseq(tmp_path / "gpt2", tokenizer)
    dictionary = (tmp_path / "gpt2/dict.txt").read_text().splitlines()
    (tmp_path / "gpt2/dict.txt").unlink()
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    for path, message in (
        ("nowhere", "nothing of this name"),
        ("gpt2", "has no token <s> or .CLS.* put fairseq's dict.txt beside"),
        ("broken.json", "broken.json is not a tokenizer.json"),
        ("empty", "the folder has no tokenizer.json"),
        ("other.ckpt", "holds no tokenizer"),
        ("text.ckpt", "cannot be read as a checkpoint"),
    ):
        with pytest.raises(UserError, match=message):
            TextTokenizer.open(tmp_path / path)
    for lines, message in (
        (["| 94802", "E 51860", "T 38431"], "does not belong to the files beside it.* such as 'T'"),
        ([dictionary[0], *dictionary], "is in it twice"),
    ):
        (tmp_path / "gpt2/dict.txt").write_text("\n".join(lines))
        with pytest.raises(UserError, match=message):
            TextTokenizer.open(tmp_path / "gpt2")
    (tmp_path / "gpt2/vocab.bpe").write_text("a b c\n")
    with pytest.raises(UserError, match=r"vocab.bpe, line 1: expected two types"):
        TextTokenizer.open(tmp_path / "gpt2")
    (tmp_path / "gpt2/encoder.json").write_text("[1]")
    with pytest.raises(UserError, match=r"encoder.json: holds a list, where an object belongs"):
        TextTokenizer.open(tmp_path / "gpt2")


def test_names_of_bert(tmp_path: Path) -> None:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "[", "MASK", "]"]
    backend = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(names[:5])
    backend.enable_truncation(3)
    backend.enable_padding()
    bert = TextTokenizer.from_json(backend.to_str())
    assert (bert.bos_id, bert.pad_id, bert.eos_id, bert.unk_id, bert.mask_id) == (2, 0, 3, 1, 4)
    assert bert.encode("hello world [MASK] hello") == [5, 6, 7, 8, 9, 5]
    assert sequence(bert, "hello", "world", max_length=9) == [2, 5, 3, 3, 6, 3]
    assert not splits_at_spaces(bert.to_json())
    assert LineEncoder(bert, "uint16").encode(["hello world"]) == [b"\5\0\6\0"]


def test_the_longer_text_is_cut_first(tokenizer: TextTokenizer) -> None:
    a, b = "a b c d e f g h", "x y"
    first, second = tokenizer.encode(a), tokenizer.encode(b)

    def pair(one: list[int], two: list[int]) -> list[int]:
        return [0, *one, 2, 2, *two, 2]

    assert sequence(tokenizer, a, max_length=6) == [0, *first[:4], 2]
    assert sequence(tokenizer, a, b, max_length=100) == pair(first, second)
    assert sequence(tokenizer, a, b, max_length=len(second) + 8) == pair(first[:4], second)
    assert sequence(tokenizer, b, a, max_length=len(second) + 8) == pair(second, first[:4])
    assert sequence(tokenizer, a, b, max_length=7) == pair(first[:2], second[:1])
    with pytest.raises(UserError, match="no room"):
        sequence(tokenizer, a, b, max_length=3)


@settings(max_examples=300, deadline=None)
@given(
    line=st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
        st.text(st.sampled_from(" abcé'漢。_3²\t\u0301\u00a0s"), max_size=40),
    )
)
def test_ids_by_words_are_those_of_the_line(tokenizer: TextTokenizer, line: str) -> None:
    for dtype, size in (("uint16", 2), ("uint32", 4)):
        encoded = LineEncoder(tokenizer, dtype).encode([line, line])
        assert encoded == [b"".join(i.to_bytes(size, "little") for i in tokenizer.encode(line))] * 2


def test_words_are_forgotten_when_they_are_too_many(tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d2v.modalities.text.corpus.encoding._MOST_WORDS", 3)
    encoder = LineEncoder(tokenizer, "uint16")
    assert splits_at_spaces(tokenizer.to_json())
    for line in [*TEXTS, *NASTY]:
        assert encoder.encode([line]) == [b"".join(i.to_bytes(2, "little") for i in tokenizer.encode(line))]
