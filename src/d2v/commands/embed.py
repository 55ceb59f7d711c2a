"""``d2v embed``: features of files, in one file."""

import argparse
from pathlib import Path

from d2v.commands.arguments import add_features, add_modality, add_share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = (
        "The output has one row an input, with the columns id and embedding; num_patches (pictures), num_frames and "
        "duration in seconds (sound) or num_tokens (text). The id of a picture or of sound is its path below the "
        "input, TAR/MEMBER in a tar, and its path or its number in parquet files. A text is a .txt file of a folder or "
        "glob (id: its path), a line of one .txt file or of stdin (its number, from 1), or a row of a .tsv, .csv, "
        ".jsonl or .parquet file (its column id, or its number from 0). Pictures are resized and cropped as in "
        "validation. Inputs longer than --chunk_seconds, or than the encoder's positions, are encoded in overlapping "
        "pieces, and the middle of each is kept. With --pool none, embedding holds one vector a patch (row by row from "
        "the top left), frame or token, and times holds the centres of the frames in seconds. In Parquet, an input of "
        "more than 15,000 vectors (five minutes) becomes several rows, in the order of first_patch, first_frame or "
        "first_token; in NPZ and safetensors, the vectors of input i are embedding[offsets[i]:offsets[i + 1]]. Until "
        "the output is complete, finished rows lie in OUTPUT.unfinished: after an interruption, the same command goes "
        "on from there and gives the same features to the last bit."
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
    add_modality(parser)
    parser.add_argument(
        "--space",
        metavar="shared|DIR",
        help="write unit vectors in the space of several media that d2v align has made beside the checkpoint, or in "
        "DIR; it says layer, weights and pooling",
    )
    parser.add_argument(
        "--pool",
        choices=("mean", "cls", "none"),
        default="mean",
        help="of the patches, frames or tokens of an input (mean); cls: the CLS token of pictures, the output at <s> "
        "of text, the mean of emotion2vec's ten; none: keep all",
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
    add_share(parser)


def run(args: argparse.Namespace) -> None:
    """Embed, and print what was written; see :func:`d2v.features.embed.embed_files`."""
    from d2v.features.embed import embed_files
    from d2v.shares import own_share

    args.share = own_share(args.share)
    print(embed_files(**vars(args)))


def _image_size(text: str) -> tuple[int, int]:
    sides: list[int] = []
    for side in text.split(","):
        sides.append(int(side) if side.isdecimal() else 0)
    if len(sides) > 2 or not 0 < min(sides) <= max(sides) <= 16_384:  # a larger picture has gigabytes
        raise argparse.ArgumentTypeError(f"{text}: give one or two numbers of pixels, N or H,W, of 1 to 16,384")
    return sides[0], sides[-1]
