"""``d2v embed``: features of files, in one file."""

import argparse
from pathlib import Path

from d2v.commands.arguments import add_features


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = (
        "The output has a row an input: id, embedding, num_patches of pictures, num_frames and duration (seconds) of "
        "sound, num_tokens of text. Pictures and sound are named by their path below the input, pictures of a tar as "
        "TAR/MEMBER, rows of parquet by the path that they state or by their number. Text: each .txt file of a folder "
        "or glob is one, named by its path; each line of a .txt file or of stdin, by its number from 1; each row of a "
        ".tsv, .csv, .jsonl or .parquet file, by its column id or its number from 0. Pictures are resized and cropped "
        "as in validation. What is longer than --chunk_seconds or than the encoder's positions is encoded in "
        "overlapping pieces, whose middles are kept. With --pool none, embedding holds a vector a patch (row by row "
        "from the top left), frame or token, and times the seconds of the frames' centres; in Parquet, an input of "
        "more than 15,000 of them (five minutes) is then several rows, which first_patch, first_frame or first_token "
        "puts in order. In NPZ and safetensors, those of input i are embedding[offsets[i]:offsets[i + 1]]. "
        "Until it is complete, what is done lies in OUTPUT.unfinished: the same command goes on there after any "
        "interruption, and gives the same features to the last bit."
    )
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="checkpoint, run or imported folder")
    parser.add_argument(
        "--input",
        required=True,
        metavar="DIR|FILE|GLOB|-",
        help="pictures or sound, or archives of them that training reads; text, also a table of it, - for lines of "
        "stdin",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="ends with .parquet, .npz or .safetensors"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace other features in --output, finished or unfinished"
    )
    add_features(parser)
    parser.add_argument(
        "--pool",
        choices=("mean", "cls", "none"),
        default="mean",
        help="of the patches, frames or tokens of an input (mean); cls: the CLS token of pictures, the output at <s> "
        "of text; none: keep all",
    )
    parser.add_argument(
        "--image_size", type=_image_size, metavar="N|H,W", help="pixels of pictures; default: the encoder's"
    )
    parser.add_argument(
        "--chunk_seconds", type=float, default=30.0, help="longer sound is encoded in pieces of so many seconds (30)"
    )
    parser.add_argument(
        "--overlap_seconds", type=float, default=5.0, help="that neighbouring pieces of sound share (5)"
    )
    parser.add_argument("--precision", choices=("32", "bf16"), default="32", help="to compute in; the output is fp32")
    parser.add_argument(
        "--num_workers", type=int, help="processes that read files; 0: this one; default: by the cores and the device"
    )


def run(args: argparse.Namespace) -> None:
    """Embed, and print what was written; see :func:`d2v.features.embed.embed_files`."""
    from d2v.features.embed import embed_files

    print(embed_files(**vars(args)))


def _image_size(text: str) -> tuple[int, int]:
    sides = [int(side) for side in text.split(",")]
    if len(sides) > 2:
        raise ValueError
    return sides[0], sides[-1]
