"""A little of three kinds of input, and a joint recipe that trains on it in a second."""

from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from speech_files import write_audio

WORDS = "the quick brown fox jumps over a lazy dog while seven wizards brew cold tea in an old house by the sea"
SIZES = {
    "trunk": {"width": 16, "depth": 2, "num_heads": 2, "layer_drop": 0.1},
    "media": {
        "vision": {
            "front": {"init_args": {"image_size": 16}},
            "num_masks": 1,
            "targets": {"init_args": {"top_k": 2}},
            "head": {"init_args": {"decoder_width": 8, "num_layers": 1}},
        },
        "speech": {
            "front": {
                "init_args": {
                    "in_channels": 1,
                    "extractor": [[8, 10, 5], [8, 3, 2], [8, 3, 2], [8, 3, 2], [8, 3, 2], [8, 2, 2], [8, 2, 2]],
                    "position_layers": 1,
                    "position_groups": 2,
                }
            },
            "num_masks": 1,
            "targets": {"init_args": {"top_k": 2}},
            "head": {"init_args": {"decoder_width": 8, "num_layers": 1}},
        },
        "text": {
            "front": {"init_args": {"vocab_size": 305}},
            "num_masks": 1,
            "targets": {"init_args": {"top_k": 2}},
            "head": {"init_args": {"decoder_width": 8, "num_layers": 1}},
        },
    },
}
PARTS = {
    "vision": {"image_size": 16, "batch_size": 4},
    "speech": {"batch_size": 3, "labels": "folder", "min_seconds": 0.2},
    "text": {"batch_size": 64, "block_size": 16, "vocab_size": 300},
}


def write_media(folder: Path) -> dict[str, str]:
    """Pictures and sound in folders of two classes, and lines of text; the root of each kind by its name."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for number in range(count):
            kind = "ab"[number % 2]
            picture = folder / "pictures" / split / kind / f"{number:03d}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (18, 20, 3), dtype=np.uint8)).save(picture)
            sound = folder / "sound" / split / kind / f"{number:03d}.wav"
            write_audio(sound, seconds=0.5 + 0.02 * number, seed=number % 2)
    lines = [" ".join(rng.choice(WORDS.split(), 12)) for _ in range(60)]
    (folder / "lines.txt").write_text("\n".join(lines) + "\n")
    return {"vision": str(folder / "pictures"), "speech": str(folder / "sound"), "text": str(folder / "lines.txt")}


def write_overlay(path: Path, roots: dict[str, str]) -> Path:
    """Sizes that train in a second, on these data."""
    parts = {}
    for name, root in roots.items():
        parts[name] = {"init_args": {**PARTS[name], "root": root}}
    trainer = {"max_steps": 3, "log_every_n_steps": 1, "enable_progress_bar": False, "limit_val_batches": 1.0}
    content = {"model": {"init_args": SIZES}, "data": {"init_args": {"parts": parts}}, "trainer": trainer}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
