"""How well pictures, sound and texts find each other in a shared space, after few pairs.

    d2v prepare demo joint --output data/demo/joint
    d2v fit --config demo/joint.yaml --seed_everything 1 --run_name joint1      # and 2, 3
    python benchmarks/align.py --checkpoint runs/joint1 --checkpoint runs/joint2 --checkpoint runs/joint3 --fsdd FSDD

Each checkpoint is a seed of its own, from 1 on, and draws its own pairs; test rows are drawn with another seed than the
demo's. Beside each encoder stands an untrained one. FSDD is a folder with files DIGIT_SPEAKER_NUMBER.flac or .wav,
anywhere below it (https://github.com/Jakobovski/free-spoken-digit-dataset). Prints tables in Markdown: means of seeds,
and in brackets the lowest.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch

from d2v.checkpoints.load import untrained_like
from d2v.demo.sentences import DIGITS, write_counts
from d2v.features.frozen_space import Features, frozen_space, item_features
from d2v.features.pairs import Pairs, read_pairs
from d2v.features.recall import RANKS, Recall, recall_of
from d2v.features.shared_space import SharedSpace, load_encoders
from d2v.model.encoder import Encoder

PAIRS = (50, 200, 1_000)
TESTS = 100
PAIRS_OF_A_VOICE, TESTS_OF_A_VOICE = 50, 100
WIDTH = 64
CPU = torch.device("cpu")

Figures = dict[str, dict[str, list[float]]]
"""By row and column of a table, one figure a seed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", action="append", required=True, metavar="PATH", help="one a seed")
    parser.add_argument("--data", type=Path, default=Path("data/demo/joint"), metavar="DIR")
    parser.add_argument("--fsdd", type=Path, metavar="DIR", help="real speech; left out: the demo's alone")
    parser.add_argument("--output", type=Path, default=Path("runs/align"), metavar="DIR", help="tables and figures")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    directions: Figures = defaultdict(lambda: defaultdict(list))
    voices: Figures = defaultdict(lambda: defaultdict(list))
    for seed, checkpoint in enumerate(args.checkpoint, 1):
        loaded = load_encoders([checkpoint], "student")
        untrained = {name: (path, untrained_like(encoder, seed)) for name, (path, encoder) in loaded.items()}
        for kind, media in (("trained", loaded), ("untrained", untrained)):
            measure_demo(media, args.data.resolve(), args.output, seed, kind, directions)
            if args.fsdd is not None:
                measure_voices(media, args.data.resolve(), args.fsdd.resolve(), args.output, seed, kind, voices)
            (args.output / "align.json").write_text(json.dumps([directions, voices], indent=1) + "\n")
            print(f"seed {seed}, {kind}: done", flush=True)
    print_table("pairs, encoder", directions)
    print_table("voice, encoder", voices)


def measure_demo(
    media: dict[str, tuple[str, Encoder]], data: Path, output: Path, seed: int, kind: str, figures: Figures
) -> None:
    """All six directions, from 50, 200 and 1,000 pairs."""
    columns = {"picture": pictures_of(data), "speech": spoken_in(data)}
    tables = []
    for split, rows in (("train", max(PAIRS)), ("val", TESTS)):
        texts = write_counts(split, rows, seed)
        column = {digit: texts[number :: len(DIGITS)] for number, digit in enumerate(DIGITS)}
        of_split = {name: files[split] for name, files in columns.items()}
        tables.append(write_table(output / f"{split}{seed}.tsv", {**of_split, "text": column}, rows, seed))
    pairs, features = read(media, tables[0])
    test, of_test = read(media, tables[1])
    for count, labelled in product(PAIRS, (False, True)):
        chosen = pairs.select(np.arange(count))  # the digits take turns
        space = frozen_space(media, features, with_labels(chosen, labelled), WIDTH, "student", seed)
        found = recall(space, of_test, test)
        row = f"{count:,}{' with labels' if labelled else ''}, {kind}"
        for direction, share in found.at[1].items():
            figures[row][direction].append(share)
        for rank in RANKS:
            figures[row][f"mean at {rank}"].append(float(np.mean(list(found.at[rank].values()))))


def measure_voices(
    media: dict[str, tuple[str, Encoder]], data: Path, fsdd: Path, output: Path, seed: int, kind: str, figures: Figures
) -> None:
    """From 50 pairs of one voice, between its other recordings and written digits, and the recordings of all others."""
    both = {name: media[name] for name in ("vision", "speech")}
    pictures, spoken = pictures_of(data), voices_in(fsdd, seed)
    trained, tested = {}, {}
    for voice, recordings in spoken.items():
        for split, rows, found in (("train", PAIRS_OF_A_VOICE, trained), ("val", TESTS_OF_A_VOICE, tested)):
            columns = {"picture": pictures[split], "speech": recordings[split]}
            path = write_table(output / f"{voice}-{split}{seed}.tsv", columns, rows, seed)
            found[voice] = read(both, path)
    for voice, labelled in product(spoken, (False, True)):
        pairs, features = trained[voice]
        space = frozen_space(both, features, with_labels(pairs, labelled), WIDTH, "student", seed)
        how = "with labels" if labelled else "pairs alone"
        others = []
        for other, (test, of_test) in tested.items():
            found = recall(space, of_test, test).at[1]
            if other != voice:
                others.append(found["speech->picture"])
                continue
            for row in (f"{voice}, {kind}", f"all, {kind}"):
                for direction, share in found.items():
                    figures[row][f"{direction}, {how}"].append(share)
        for row in (f"{voice}, {kind}", f"all, {kind}"):
            figures[row][f"of other voices, {how}"].append(float(np.mean(others)))


def read(media: dict[str, tuple[str, Encoder]], table: Path) -> tuple[Pairs, Features]:
    """Rows of a table, and the features of what they have."""
    pairs = read_pairs(table, "--pairs", list(media), "label")
    encoders = {name: encoder for name, (_, encoder) in media.items()}
    features, pairs = item_features(encoders, pairs, "/", CPU)
    return pairs, features


def recall(space: SharedSpace, features: Features, test: Pairs) -> Recall:
    """Where a hit is any item of the query's digit."""
    vectors = {}
    for name, projection in space.media.items():
        vectors[name] = projection(features[name][projection.parts])
    return recall_of(vectors, test)


def with_labels(pairs: Pairs, labelled: bool) -> Pairs:
    """The rows, whose labels are known in training or not."""
    return pairs if labelled else replace(pairs, labels=None)


def pictures_of(data: Path) -> dict[str, dict[str, list[str]]]:
    """Handwritten digits of the demo, by split and digit; those of "val" are by other people."""
    return {split: by_digit(data / "digits" / split, "*.png") for split in ("train", "val")}


def spoken_in(data: Path) -> dict[str, dict[str, list[str]]]:
    """Spoken digits of the demo, by split and digit; those of "val" are in other voices."""
    return {split: by_digit(data / "speech" / "digits" / split, "*.flac") for split in ("train", "val")}


def by_digit(folder: Path, pattern: str) -> dict[str, list[str]]:
    return {digit: sorted(map(str, (folder / digit).glob(pattern))) for digit in DIGITS}


def voices_in(fsdd: Path, seed: int) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Recordings of FSDD by voice, split and digit: five of each digit to train on, others to test."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(fsdd.rglob("[0-9]_*_*.*")):
        digit, voice, _ = path.stem.split("_")
        found[voice][DIGITS[int(digit)]].append(str(path))
    generator = np.random.default_rng(seed)
    count = PAIRS_OF_A_VOICE // len(DIGITS)
    split: dict[str, dict[str, dict[str, list[str]]]] = {}
    for voice, recordings in found.items():
        split[voice] = {"train": {}, "val": {}}
        for digit, files in recordings.items():
            shuffled = generator.permutation(files).tolist()
            split[voice]["train"][digit], split[voice]["val"][digit] = shuffled[:count], shuffled[count:]
    return split


def write_table(path: Path, columns: dict[str, dict[str, list[str]]], rows: int, seed: int) -> Path:
    """Rows in which the digits take turns; what a column has of one begins anew where it is too short."""
    generator = np.random.default_rng([seed, rows])
    shuffled = {}
    for name, items in columns.items():
        shuffled[name] = {digit: generator.permutation(each).tolist() for digit, each in items.items()}
    lines = ["\t".join([*columns, "label"])]
    for row in range(rows):
        turn, number = divmod(row, len(DIGITS))
        digit = DIGITS[number]
        cells = [items[digit][turn % len(items[digit])] for items in shuffled.values()]
        lines.append("\t".join([*cells, digit]))
    path.write_text("\n".join(lines) + "\n")
    return path


def print_table(corner: str, figures: Figures) -> None:
    """Means over seeds, and the lowest in brackets."""
    if not figures:
        return
    columns = list(next(iter(figures.values())))
    print(f"\n| {' | '.join([corner, *columns])} |\n|{' --- |' * (len(columns) + 1)}")
    for row, shares in figures.items():
        cells = [f"{np.mean(shares[column]):.2f} ({min(shares[column]):.2f})" for column in columns]
        print(f"| {' | '.join([row, *cells])} |")


if __name__ == "__main__":
    main()
