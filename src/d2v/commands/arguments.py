"""Arguments that several commands take, and what they mean."""

import argparse
import inspect
from collections.abc import Sequence


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Which weights of a checkpoint, and where to compute."""
    parser.add_argument("--weights", choices=("student", "teacher"), default="student", help="which of a checkpoint's")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")


def add_features(parser: argparse.ArgumentParser) -> None:
    """Which weights of a checkpoint, which layer, and where to compute."""
    add_weights(parser)
    parser.add_argument(
        "--layer",
        type=_layer,
        metavar="K|K,K|mean",
        help="end of block K, from 0 or, as --layer=-1, from the last; the mean of several (8,9,10,11) or of all; "
        "default: the output",
    )


def add_modality(parser: argparse.ArgumentParser) -> None:
    """Which encoder."""
    parser.add_argument(
        "--modality", metavar="NAME", help="which encoder of a checkpoint that holds several: vision, speech, text, ..."
    )


def add_share(parser: argparse.ArgumentParser) -> None:
    """Which of several processes this is."""
    parser.add_argument(
        "--share",
        metavar="RANK/COUNT",
        help="of several processes that give this command, do the part of this one, counted from 0; the last to end "
        "puts the result together (default: as torchrun or srun say; else this one does everything)",
    )


def parse_with_keys(
    parser: argparse.ArgumentParser, args: Sequence[str], beginnings: tuple[str, ...]
) -> argparse.Namespace:
    """Parse, and keep in ``keys`` the values of words that begin so, which only a config knows."""
    parser.allow_abbrev = False
    namespace, rest = parser.parse_known_args(args)
    namespace.keys = {}
    words = iter(rest)
    for word in words:
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith(beginnings):
            parser.error(f"unrecognized argument: {word}")
        if not equals and (value := next(words, "--")).startswith("--"):
            parser.error(f"{word}: a value is missing")
        namespace.keys[key] = value
    return namespace


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


def parameters_of(class_type: type) -> dict[str, inspect.Parameter]:
    """Arguments of a class, with those of its bases, to which it hands what it does not name itself.

    What a base must be given is the class's own affair.
    """
    parameters: dict[str, inspect.Parameter] = {}
    for base in reversed(class_type.__mro__):
        if "__init__" in vars(base):
            for name, parameter in inspect.signature(vars(base)["__init__"]).parameters.items():
                if base is class_type or parameter.default is not parameter.empty:
                    parameters[name] = parameter
    return parameters
