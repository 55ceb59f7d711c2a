"""The output layer of a fine-tuned recogniser: taken from foreign checkpoints, kept beside an imported encoder."""

import dataclasses
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from d2v.checkpoints.folder import is_folder, read_config
from d2v.checkpoints.hub import local_path
from d2v.checkpoints.layout import CTCHead, StateDict
from d2v.data.alphabet import Alphabet
from d2v.errors import UserError

FILE = "ctc_head.safetensors"
DICTIONARY = "dict.ltr.txt"
"""What fairseq calls the letters of its LibriSpeech recognisers."""

_FAIRSEQ_HEAD = "w2v_encoder.proj."
_LIBRISPEECH = (*("<s>", "<pad>", "</s>", "<unk>", "|"), *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
"""The four specials of fairseq's dictionaries, the first of which its CTC takes for the blank, and dict.ltr.txt."""


def take_fairseq_head(state: dict[str, Any], left_out: list[str], notes: list[str]) -> CTCHead | None:
    """The head of fairseq's ``wav2vec_ctc``, its symbols not known yet; None if there is none.

    Args:
        state: Official tensors.
        left_out: Loses the head's names if it is taken.
        notes: Extended if it cannot be.
    """
    weight, bias = (state.get(_FAIRSEQ_HEAD + part) for part in ("weight", "bias"))
    if weight is None and bias is None:
        return None
    return make_head(weight, bias, [_FAIRSEQ_HEAD + part for part in ("weight", "bias")], left_out, notes)


def make_head(
    weight: Any,
    bias: Any,
    names: list[str],
    left_out: list[str],
    notes: list[str],
    symbols: tuple[str, ...] | None = None,
) -> CTCHead | None:
    """A head from tensors of any layout; None, and a note, if they are odd. See :func:`take_fairseq_head`."""
    if not (isinstance(weight, Tensor) and isinstance(bias, Tensor) and weight.ndim == 2 and len(weight) == len(bias)):
        notes.append(f"the head of the recogniser is not whole ({', '.join(names)}) and is left out")
        return None
    left_out[:] = [name for name in left_out if name not in names]
    return CTCHead(weight.float(), bias.float(), symbols)


def name_symbols(head: CTCHead, dictionary: Path | None, source: Path, notes: list[str]) -> CTCHead | None:
    """Give a head its symbols: those of a file, of ``dict.ltr.txt`` beside the checkpoint, or fairseq's usual ones.

    Args:
        head: Of an import.
        dictionary: A file that the user names.
        source: The checkpoint.
        notes: Extended by where they come from if they had to be looked for.

    Returns:
        The head; None if nothing tells its symbols, with a note.

    Raises:
        UserError: The user's file does not fit the head.
    """
    outputs = len(head.weight)
    if dictionary is not None:
        symbols = Alphabet.from_file(dictionary).symbols
        if len(symbols) != outputs:
            raise UserError(
                f"--dict {dictionary}: makes {len(symbols)} symbols (fairseq's four specials included), but the "
                f"head has {outputs} outputs; give the dictionary that the recogniser was trained with"
            )
        return dataclasses.replace(head, symbols=symbols)
    if head.symbols is not None:
        return head
    beside = source.parent / DICTIONARY
    if beside.is_file():
        symbols = Alphabet.from_file(beside).symbols
        if len(symbols) == outputs:
            notes.append(f"the symbols are those of {beside.name} beside the checkpoint")
            return dataclasses.replace(head, symbols=symbols)
        notes.append(f"{beside.name} beside the checkpoint has {len(symbols)} symbols, the head {outputs}: not used")
    if outputs == len(_LIBRISPEECH):
        notes.append(
            f"the file does not name its symbols: fairseq's usual {outputs} are taken (--dict FILE names others)"
        )
        return dataclasses.replace(head, symbols=_LIBRISPEECH)
    notes.append(
        f"the head of the recogniser is left out, because nothing names its {outputs} symbols: import again with "
        "--dict FILE, or with Hugging Face's vocab.json in the folder"
    )
    return None


def head_files(head: CTCHead) -> dict[str, StateDict]:
    """What is written beside the encoder, by file name; the symbols go into ``config.json``."""
    return {FILE: {"ctc_head.weight": head.weight, "ctc_head.bias": head.bias}}


def load_ctc_head(folder: str | Path) -> tuple[Float[Tensor, "s d"], Float[Tensor, "s"], list[str]] | None:
    """Weight, bias and symbols of the recogniser in a folder that `d2v import` wrote; None if it holds none.

    The first symbol is the blank, ``|`` stands between words, names in <> are never written.

    Raises:
        UserError: The folder is damaged.
    """
    path = local_path(folder)
    if not is_folder(path):
        return None
    ctc = read_config(path).get("ctc")
    if ctc is None:
        return None
    try:
        tensors = load_file(path / FILE)
        weight, bias = tensors["ctc_head.weight"], tensors["ctc_head.bias"]
        symbols = list(ctc["symbols"])
        if not all(isinstance(symbol, str) for symbol in symbols):
            raise ValueError("its symbols are no texts")
        if weight.ndim != 2 or bias.shape != (len(symbols),) or len(weight) != len(symbols):
            raise ValueError(f"{len(symbols)} symbols for outputs {list(weight.shape)}")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path / FILE}: does not go with {path / 'config.json'} ({error}); import it again") from error
    return weight, bias, symbols
