"""fairseq data2vec 2.0 image checkpoints."""

from typing import Any

from d2v.checkpoints.classifier_head import take_head
from d2v.checkpoints.layout import Imported, ImportedClassifier, count, expect_shape, first_match
from d2v.checkpoints.recipe import node
from d2v.official import published
from d2v.official.fairseq import v2
from d2v.official.fairseq.settings import contradictions, ema_schedule
from d2v.official.vision import example, image_size, shown, sizes, square

_ENCODER_PARTS = (
    (r"^local_encoder\.proj\.", "feature_extractor.proj."),
    (r"^fixed_positional_encoder\.positions$", "positions.table"),
    (r"^extra_tokens$", "cls_token"),
    *v2.TRANSFORMER_PARTS,
)


def matches(content: dict[str, Any]) -> bool:
    """Whether a checkpoint has this layout, judged by its keys."""
    return v2.matches(content, "IMAGE")


def convert(content: dict[str, Any]) -> Imported:
    """Translate a 2.0 image checkpoint, pretrained or fine-tuned.

    What the tensors tell is taken from them; missing settings are fairseq's defaults.

    Raises:
        UserError: It is not whole, or its encoder is a variant that no published model uses.
    """
    checkpoint = v2.read(content, "IMAGE", _encoder_name, refused=("use_alibi_encoder",))
    v2.add_teacher(checkpoint, _encoder_name)
    settings, image, weights, notes = checkpoint.settings, checkpoint.section, checkpoint.weights, checkpoint.notes
    for name, value in weights.items():
        if name.endswith((".cls_token", ".positions.table")):
            weights[name] = expect_shape(value, 3, name)[0]  # [1, n, D] -> [n, D]
    head = v2.decoder(checkpoint, "d2v.model.heads.ConvDecoder2d", published={})
    encoder = {
        **sizes(weights),
        "prenet_depth": count(weights, r"student\.transformer\.prenet\.(\d+)\."),
        "num_cls": len(weights.get("student.cls_token", ())),
    }
    table = weights.get("student.positions.table")
    patch_size = encoder["patch_size"]
    side = int(image.get("input_size", 224)) // patch_size
    cls_weight = float(settings.get("cls_loss", 0))
    if not image.get("inverse_mask"):
        notes.append("modalities.image.inverse_mask is not set: d2v masks by inverse blocks nevertheless")
    student = node(
        "d2v.modalities.vision.front_end.VisionEncoder",
        image_size=image_size((side, side) if table is None else square(len(table)), patch_size),
        positions=None if table is None else "sincos",
        **v2.transformer(checkpoint),
        **encoder,
    )
    masking = node(
        "d2v.model.masking.InverseBlockMasking",
        mask_ratio=image.get("mask_prob", 0.7),
        block_size=image.get("mask_length", 5),
        adjust=image.get("mask_prob_adjust", 0),
    )
    cls_loss = node("d2v.model.losses.ClsLoss", weight=cls_weight) if cls_weight and encoder["num_cls"] else None
    said = {
        "depth": (settings.get("depth", 8), encoder["depth"]),
        "embed_dim": (settings.get("embed_dim", 768), encoder["width"]),
        "modalities.image.prenet_depth": (image.get("prenet_depth", 4), encoder["prenet_depth"]),
        "modalities.image.patch_size": (image.get("patch_size", 16), patch_size),
    }
    notes += contradictions(said)
    recipe = published.by_width(published.V2_IMAGE, encoder["width"])
    notes += published.differences(published.flat(settings, "image", image), recipe)
    classifier = _classifier(content, checkpoint, student["init_args"])
    return Imported(
        layout="fairseq data2vec 2.0 image" + (", fine-tuned" if "head.weight" in checkpoint.state else ""),
        licence=v2.LICENCE,
        method=v2.method(checkpoint, student, masking, head, cls_loss),
        ema=ema_schedule(settings),
        weights=weights,
        example=example(encoder["width"]),
        sizes=shown(student),
        classifier=classifier,
        left_out=checkpoint.left_out,
        notes=notes,
    )


def _classifier(
    content: dict[str, Any], checkpoint: v2.V2Checkpoint, student: dict[str, Any]
) -> ImportedClassifier | None:
    """Head of ``mae_image_classification``: a norm (``use_fc_norm``, eps 1e-6 always) and a linear layer."""
    config = content.get("cfg")
    model = config.get("model") if isinstance(config, dict) else None
    mode = str((model if isinstance(model, dict) else {}).get("prediction_mode", "MEAN_POOLING")).rpartition(".")[2]
    if "head.weight" in checkpoint.state and mode not in ("MEAN_POOLING", "CLS_TOKEN"):
        checkpoint.notes.append(f"the classifier is left out: its prediction_mode is {mode}, which d2v has not")
        return None
    parts = {"norm": "fc_norm"} if any(key.startswith("fc_norm.") for key in checkpoint.state) else {}
    if parts and student["eps"] != 1e-6:
        checkpoint.notes.append(f"the classifier's norm had eps 1e-6; here it has the encoder's, {student['eps']}")
    return take_head(
        checkpoint.state,
        {**parts, "proj": "head"},
        width=student["width"],
        pool="cls" if mode == "CLS_TOKEN" else "mean",
        left_out=checkpoint.left_out,
        notes=checkpoint.notes,
    )


def _encoder_name(key: str) -> str | None:
    return first_match(key, _ENCODER_PARTS)
