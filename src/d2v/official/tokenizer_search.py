"""The tokenizer that goes with an imported text encoder."""

from pathlib import Path

from d2v.errors import UserError
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.official.imported import Imported

ASSET = "tokenizer.json"
_HOW = (
    "--tokenizer PATH (a tokenizer.json; of fairseq's models a folder with GPT-2's encoder.json and vocab.bpe and with "
    "their dict.txt)"
)


def find_tokenizer(imported: Imported, named: Path | None, source: Path) -> dict[str, str]:
    """What becomes of the encoder's assets: its ``tokenizer.json``, if it is one of text and the tokenizer is known.

    Args:
        imported: Its notes are extended by where the tokenizer comes from, and by what is odd about it.
        named: Where the user says that it lies.
        source: The checkpoint, or the folder of Hugging Face; without ``named`` it is looked for there.

    Raises:
        UserError: The tokenizer that the user names cannot be read or does not fit, or there is no text.
    """
    vocab_size = imported.front.get("vocab_size")
    if vocab_size is None:
        if named is not None:
            raise UserError(f"--tokenizer {named}: {source} is no model of text; leave it out")
        return {}
    notes = imported.notes
    if named is not None:
        tokenizer = TextTokenizer.open(named)
        if len(tokenizer) > vocab_size:
            raise UserError(
                f"--tokenizer {named}: has {len(tokenizer)} ids, but the encoder knows {vocab_size}; give the one that "
                "it was trained with"
            )
    else:
        folder, where = source.parent, "beside the checkpoint"
        if source.is_dir():
            folder, where = source, "in the folder"
        try:
            tokenizer = TextTokenizer.open(folder)
        except UserError as error:
            notes.append(f"no tokenizer goes with it ({error}): to have one, import again with {_HOW}")
            return {}
        if len(tokenizer) > vocab_size:
            notes.append(
                f"the tokenizer {where} has {len(tokenizer)} ids, the encoder knows {vocab_size}: it is not used; "
                f"import again with {_HOW}"
            )
            return {}
        if not source.is_dir():
            notes.append(f"the tokenizer is the one {where}")
    if tokenizer.mask_id != vocab_size - 1:
        notes.append(
            f"the tokenizer's <mask> is {tokenizer.mask_id}: a pretraining that goes on from here would take the last "
            f"id, {vocab_size - 1}, in its place"
        )
    return {ASSET: tokenizer.to_json()}
