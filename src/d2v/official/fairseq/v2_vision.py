"""fairseq data2vec 2.0 vision checkpoints, pretrained or fine-tuned."""

from typing import Any

from d2v.checkpoints.folder import any_begins
from d2v.checkpoints.head_files import HeadInput, HeadTask
from d2v.checkpoints.recipe import node
from d2v.official.fairseq import cfg, v2
from d2v.official.foreign_heads import take_classifier
from d2v.official.imported import Imported
from d2v.official.names import by_rows, count, trunk_sizes
from d2v.official.vision_tensors import FRONT_END, image_size, patch_sizes, square

ROWS = (
    (r"^local_encoder\.proj\.", "front.feature_extractor.proj."),
    (r"^fixed_positional_encoder\.positions$", "front.positions.table"),
    *v2.ENCODER_ROWS,
)


def read_v2_vision(content: dict[str, Any]) -> Imported:
    """Translate a 2.0 vision checkpoint, pretrained or fine-tuned.

    What the tensors tell is taken from them; missing settings are fairseq's defaults.

    Raises:
        UserError: It is not whole, or its encoder is a variant that no published model uses.
    """
    found = v2.sort_v2(content, "IMAGE", by_rows(ROWS), refused=("use_alibi_encoder",))
    section, weights, notes = found.section, found.weights, found.notes
    decoder = v2.decoder(found, "d2v.model.heads.ConvDecoder2d", published={})
    patches = patch_sizes(weights)
    patch_size = patches["patch_size"]
    side = int(section.get("input_size", 224)) // patch_size
    grid = (side, side)
    table = weights.get("student.front.positions.table")
    if table is not None:
        grid = square(len(table))
    front = {
        "image_size": image_size(grid, patch_size),
        **patches,
        "positions": None if table is None else "sincos",
        "num_cls": len(weights.get("student.front.cls_token", ())),
        "prenet_depth": count(weights, r"student\.front\.prenet\.(\d+)\."),
    }
    trunk = {**trunk_sizes(weights), **v2.trunk(found)}
    if not section.get("inverse_mask"):
        notes.append("modalities.image.inverse_mask is not set: d2v masks by inverse blocks nevertheless")
    masking = node(
        "d2v.model.masking.InverseBlockMasking",
        mask_ratio=section.get("mask_prob", 0.7),
        block_size=section.get("mask_length", 5),
        adjust=section.get("mask_prob_adjust", 0),
    )
    real = {"prenet_depth": front["prenet_depth"], "patch_size": patch_size}
    notes += cfg.contradictions(section, real, "modalities.image.")
    take_v2_classifier(found, cfg.own_model_settings(content), trunk["eps"])
    tuned = cfg.fine_tuned("head.weight" in found.state)
    student = {"front": node(FRONT_END, **front), "trunk": trunk}
    cls_loss = v2.cls_loss(found, rows=256)
    return v2.finish_v2(found, "vision", tuned, v2.LICENCE, student, masking, decoder, cls_loss)


def take_v2_classifier(found: Imported, settings: dict[str, Any], eps: float, task: HeadTask | None = None) -> None:
    """Take the head of ``mae_image_classification``: a norm (``use_fc_norm``) and a linear layer.

    Args:
        found: Gets the head.
        settings: Section ``model`` of the classifier itself.
        eps: Of the norm.
        task: None: as :func:`~d2v.official.foreign_heads.take_classifier` takes it.
    """
    mode = str(settings.get("prediction_mode", "MEAN_POOLING")).rpartition(".")[2]
    if "head.weight" in found.state and mode not in ("MEAN_POOLING", "CLS_TOKEN"):
        found.notes.append(f"the classifier is left out: its prediction_mode is {mode}, which d2v has not")
        return
    layers = {"proj": "head"}
    if any_begins(found.state, "fc_norm."):
        layers["norm"] = "fc_norm"
    pool: HeadInput = "cls" if mode == "CLS_TOKEN" else "mean"
    take_classifier(found, layers, pool, task=task, eps=eps)
