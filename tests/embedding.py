"""`d2v embed`, called as its tests call it."""

from pathlib import Path

from d2v.cli import main


def embed(checkpoint: Path, source: Path | str, output: Path, *options: object) -> int:
    """The exit code; what is at ``output`` already is replaced, and no other process reads."""
    given = ["--checkpoint", checkpoint, "--input", source, "--output", output, "--overwrite", "--num_workers", 0]
    return main(["embed", *map(str, [*given, *options])])
