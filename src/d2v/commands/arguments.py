"""Arguments that several commands take, and what they mean."""

import argparse
from typing import TYPE_CHECKING

from d2v.errors import UserError

if TYPE_CHECKING:  # nothing heavy is imported before the arguments are known to be right
    import torch


def add_features(parser: argparse.ArgumentParser) -> None:
    """Which weights of a checkpoint, which layer, and where to compute."""
    parser.add_argument("--weights", choices=("student", "teacher"), default="student", help="which of a checkpoint's")
    parser.add_argument(
        "--layer",
        type=_layer,
        metavar="K|K,K|mean",
        help="end of block K, from 0 or, as --layer=-1, from the last; the mean of several (8,9,10,11) or of all; "
        "default: the output",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")


def find_device(name: str) -> "torch.device":
    """The device of ``--device``; auto: a GPU if there is one.

    Raises:
        UserError: This machine has no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: this machine has no such device; leave it out, or use cpu") from error
    return device


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return int(text)


def _layer(text: str) -> int | list[int] | str:
    if text == "mean":
        return text
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of a layer, no list such as 8,9,10 and not mean"
        ) from None
    return numbers[0] if len(numbers) == 1 else numbers
