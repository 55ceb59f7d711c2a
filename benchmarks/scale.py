"""What many samples cost: at the border of an epoch, in each batch, when broken ones are counted, and at a start.

    python benchmarks/scale.py                      # the order, batches by length, counts
    python benchmarks/scale.py --tree FOLDER        # starts: makes 200,000 small files in FOLDER at the first call

Each line is measured in a process of its own; memory is what the process holds at its peak above what it held before.
With PYTHONPATH=OTHER/src the same is measured of another version.
"""

import argparse
import multiprocessing
import os
import resource
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np

FILES, FILES_A_FOLDER = 200_000, 200
MEGABYTE = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, help="folder for 200,000 sound files and as many pictures")
    tree = parser.parse_args().tree
    if tree is None:
        for case in (order, order_of_few, buckets, skipped):
            measure(case)
        return
    make_tree(tree)
    for case in (start_of_sound, start_of_pictures):
        for number in (1, 2, 3):
            print(f"start {number}: ", end="")
            measure(case, tree)


def measure(case: Callable[..., None], *arguments: object) -> None:
    """Run one case in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=case, args=arguments)
    process.start()
    process.join()


def order() -> None:
    """The first batches of two epochs of 1e8 samples."""
    from d2v.data.sampler import StreamSampler

    before = peak()
    sampler = StreamSampler(100_000_000, 256, seed=1)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        start = time.perf_counter()
        batches = iter(sampler)
        next(batches)
        first = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(1000):
            next(batches)
        each = time.perf_counter() - start
        report("order of 1e8", f"epoch {epoch}: first batch {first * 1e3:.1f} ms, each of 256 after it {each:.3f} ms")
    report("order of 1e8", f"{peak() - before:.0f} MB")


def order_of_few() -> None:
    """Whole epochs of 1e4 samples."""
    from d2v.data.sampler import StreamSampler

    for batch_size in (1, 16, 256):
        sampler = StreamSampler(10_000, batch_size, seed=1)
        start, count = time.perf_counter(), 0
        for epoch in range(3):
            sampler.set_epoch(epoch)
            count += sum(1 for _ in sampler)
        each = (time.perf_counter() - start) / count
        report("order of 1e4", f"a batch of {batch_size}: {each * 1e6:.0f} us")


def buckets() -> None:
    """Batches of 1e7 clips of 2 to 20 s in two epochs."""
    from d2v.data.length_buckets import LengthBuckets

    lengths = np.random.default_rng(0).integers(32_000, 320_000, 10_000_000)
    before, start = peak(), time.perf_counter()
    made = LengthBuckets(lengths, 200 * 16_000, seed=1)
    report("buckets of 1e7", f"made once in {time.perf_counter() - start:.1f} s")
    for epoch in (0, 1):
        start = time.perf_counter()
        made.batch(epoch, 0)
        first = time.perf_counter() - start
        start = time.perf_counter()
        for number in range(1000):
            made.batch(epoch, number * 100)
        each = time.perf_counter() - start
        report("buckets of 1e7", f"epoch {epoch}: first batch {first * 1e3:.1f} ms, each after it {each * 1e3:.0f} us")
    report("buckets of 1e7", f"{peak() - before:.0f} MB")


def skipped() -> None:
    """What `data/skipped` and the check cost at 1e8 samples, and the check after a sample turned out broken."""
    from d2v.data.broken_samples import SkippedSamples
    from d2v.errors import BrokenSample

    before = peak()
    record = SkippedSamples(str, 100_000_000, 0.01)
    start = time.perf_counter()
    _ = record.count
    counted = time.perf_counter() - start
    record.mark_broken(5, BrokenSample("as a test"))
    start = time.perf_counter()
    record.check()
    checked = time.perf_counter() - start
    start = time.perf_counter()
    for index in range(10_000):
        record.mark_good(index + 100)
    marked = (time.perf_counter() - start) / 10_000
    report("skipped of 1e8", f"count {counted * 1e3:.3f} ms, check after a broken one {checked * 1e3:.3f} ms")
    report("skipped of 1e8", f"mark a good one {marked * 1e6:.1f} us, {peak() - before:.0f} MB")


def start_of_sound(tree: Path) -> None:
    """From the DataModule to its first batch of sound."""
    from d2v.modalities.speech.data import LibriSpeechDataModule

    before, start = peak(), time.perf_counter()
    data = LibriSpeechDataModule(str(tree / "sound"), 20, min_seconds=0, num_workers=0, max_skipped_fraction=0.5)
    data.prepare_data()
    data.setup("fit")
    data.training_size()
    loader = data.train_dataloader()
    report("sound", f"{time.perf_counter() - start:.2f} s, {peak() - before:.0f} MB, {len(loader.dataset):,} files")


def start_of_pictures(tree: Path) -> None:
    """From the DataModule to its loader of pictures."""
    from d2v.modalities.vision.data import ImageNetDataModule

    before, start = peak(), time.perf_counter()
    data = ImageNetDataModule(str(tree / "pictures"), 64, num_workers=0)
    data.setup("fit")
    data.training_size()
    loader = data.train_dataloader()
    report("pictures", f"{time.perf_counter() - start:.2f} s, {peak() - before:.0f} MB, {len(loader.dataset):,} files")


def make_tree(tree: Path) -> None:
    """Folders of short sounds of one second and of files that are called pictures; links to one file each a folder."""
    for kind, ending in (("sound", "wav"), ("pictures", "jpg")):
        for number in range(FILES // FILES_A_FOLDER):
            folder = tree / kind / f"{number:05}"
            if folder.exists():
                continue
            folder.mkdir(parents=True)
            first = folder / f"{number}-0-0000.{ending}"
            if kind == "sound":
                with wave.open(str(first), "wb") as file:
                    file.setparams((1, 1, 8000, 0, "NONE", "not compressed"))
                    file.writeframes(bytes(range(250)) * (4 + number % 40))
            else:
                first.write_bytes(b"not looked at")
            for other in range(1, FILES_A_FOLDER):
                os.link(first, folder / f"{number}-0-{other:04}.{ending}")


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGABYTE


def report(what: str, found: str) -> None:
    print(f"{what}: {found}", flush=True)


if __name__ == "__main__":
    main()
