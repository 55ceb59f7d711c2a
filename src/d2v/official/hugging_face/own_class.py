"""Folders for transformers of what it has no class for: d2v's own classes go with the weights (``modeling_d2v.py``)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2v import __version__
from d2v.checkpoints.folder import FORMAT
from d2v.checkpoints.head_files import StoredHead
from d2v.data.normalisation import ASSET
from d2v.errors import UserError
from d2v.modalities.text.tokenizer_files import TOKENIZER, UNKNOWN_FROM
from d2v.model.encoder import Encoder
from d2v.official import audio_tensors, speech_tensors, text_tensors, vision_tensors
from d2v.official.hugging_face.speech_model import speech_files
from d2v.official.hugging_face.terms import HuggingFaceModel, class_settings
from d2v.official.hugging_face.text_model import text_files
from d2v.official.hugging_face.vision_model import picture_files

OWN_CODE = "modeling_d2v.py"
"""The file of code beside this one, which is copied into the folder."""
_MEDIA = {
    vision_tensors.FRONT_END: (picture_files, {"AutoModelForImageClassification": "D2vForClassification"}),
    speech_tensors.FRONT_END: (
        speech_files,
        {"AutoModelForAudioClassification": "D2vForClassification", "AutoModelForCTC": "D2vForCTC"},
    ),
    audio_tensors.FRONT_END: (
        lambda front, head, assets: ({}, {name: assets[name] for name in assets if name == ASSET}),
        {"AutoModelForAudioClassification": "D2vForClassification"},
    ),
    text_tensors.FRONT_END: (text_files, {"AutoModelForSequenceClassification": "D2vForClassification"}),
}
"""By front end: a function from its settings, the head and the assets to what ``config.json`` says about symbols and to
the files of the processor, as :attr:`HuggingFaceModel.files`; and with what transformers loads a model with a head."""
_ONLY = {"norm_first": False, "layer_scale": None, "key_bias": True, "relative_bias": None, "positions": "sincos"}
"""The only values of these settings that the classes have."""


def own_class(
    encoder: Encoder,
    head: StoredHead | None,
    assets: Mapping[str, str],
    source: Mapping[str, Any],
    problems: list[str],
) -> HuggingFaceModel:
    """A model in d2v's own terms, for transformers.

    Args:
        encoder, head, assets, source: As in :func:`~d2v.official.hugging_face.model_folder.write_model_folder`.
        problems: Why no class of transformers can hold it.

    Raises:
        UserError: Ours cannot either.
    """
    recipe = encoder.recipe
    class_path, front = recipe["front"]["class_path"], recipe["front"]["init_args"]
    settings, odd = {**front, **recipe["trunk"]}, []
    if class_path not in _MEDIA:
        odd.append(f"{class_path} has no counterpart: its code is not d2v's")
    for key, value in _ONLY.items():
        if settings.get(key, value) != value:
            odd.append(f"{key} is {settings[key]!r}")
    if "front.masked_input.mask_token" in encoder.state_dict():
        odd.append("masked_input is 'replace'")
    if UNKNOWN_FROM in assets.get(TOKENIZER, ""):
        odd.append("its dict.txt lacks types")
    if odd:
        raise UserError(f"{'; '.join(problems)}. Nor can d2v's own, which are of data2vec 2.0: {'; '.join(odd)}")
    processor, with_head = _MEDIA[class_path]
    more, files = processor(front, head, assets)
    auto_map, name = {"AutoConfig": "D2vConfig", "AutoModel": "D2vModel", **with_head}, "D2vModel"
    tensors = {f"student.{key}": value for key, value in encoder.state_dict().items()}
    config = {"format": FORMAT, "d2v_version": __version__, "method": {"student": recipe}, "source": dict(source)}
    if head is not None:
        name = "D2vForCTC" if head.task == "ctc" else "D2vForClassification"
        tensors |= {f"head.{key}": value for key, value in head.weights.items()}
        config["head"] = head.entry
        if head.task != "ctc":
            config |= class_settings(head)
    config["assets"] = [file for file in files if file in assets]
    config["auto_map"] = {auto: f"{Path(OWN_CODE).stem}.{own}" for auto, own in auto_map.items()}
    if class_path == speech_tensors.FRONT_END and ASSET in files:
        own = {"AutoFeatureExtractor": f"{Path(OWN_CODE).stem}.D2vFeatureExtractor"}
        files[ASSET] = {**files[ASSET], "feature_extractor_type": "D2vFeatureExtractor", "auto_map": own}
    files[OWN_CODE] = Path(__file__).with_name(OWN_CODE).read_text(encoding="utf-8")
    return HuggingFaceModel(name, config | more, extra=tensors, files=files)
