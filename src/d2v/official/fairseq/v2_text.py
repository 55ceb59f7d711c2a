"""fairseq data2vec 2.0 text checkpoints, pretrained or fine-tuned."""

from typing import Any

from d2v.checkpoints.folder import any_begins
from d2v.checkpoints.recipe import node
from d2v.errors import UserError
from d2v.official import text_tensors as text
from d2v.official.fairseq import cfg, v2
from d2v.official.foreign_heads import take_fairseq_text_classifier
from d2v.official.imported import Imported, Recipe
from d2v.official.names import SHAREABLE, by_rows

_ROWS = (
    (r"^local_encoder\.embed_tokens\.weight$", "front.feature_extractor.embedding.weight"),
    (r"^local_encoder\.embed_positions\.weight$", "front.positions.table"),
    (r"^local_encoder\.layernorm_embedding\.", "front.input_norm."),
    (r"^blocks\.", "trunk.blocks."),
)
# With prenet blocks fairseq normalises the embeddings twice; no published model of text has them.
_REFUSED = ("prenet_depth", "num_extra_tokens", "use_alibi_encoder", "no_token_positional_embeddings")
_WANTED = ("learned_pos", "layernorm_embedding", "no_scale_embedding")
_PUBLISHED_DECODER = {
    "decoder_width": 768, "num_layers": 5, "kernel_size": 9, "groups": 1, "input_dropout": 0.1, "residual": False,
    "projection_layers": 2, "projection_ratio": 2.0, "projection_init": "bert",
}  # fmt: skip


def read_v2_text(content: dict[str, Any]) -> Imported:
    """Translate a 2.0 text checkpoint, pretrained or fine-tuned.

    What the tensors tell is taken from them; missing settings are fairseq's defaults.

    Raises:
        UserError: It is not whole, or its encoder is a variant that no published model uses.
    """
    found = v2.sort_v2(content, "TEXT", by_rows(_ROWS), _REFUSED, SHAREABLE)
    settings, section, notes = found.settings, found.section, found.notes
    for key in _WANTED:
        if not section.get(key, True):
            raise UserError(f"cfg.model.modalities.text.{key} is off: no published model of 2.0 is such; unsupported")
    if any_begins(found.state, "context_encoder."):
        raise UserError("the encoder has a prenet (modalities.text.prenet_depth), of which d2v's has none for text")
    text.cut_positions(found.weights)
    decoder = v2.decoder(found, "d2v.model.heads.ConvDecoder1d", _PUBLISHED_DECODER)
    trunk = v2.trunk(found)
    trunk |= {
        "activation_dropout": settings.get("activation_dropout", 0.0), "layer_drop": settings.get("layerdrop", 0.0)
    }  # fmt: skip
    student = text.student_recipe(found.weights, trunk)
    if trunk["eps"] != 1e-5:
        notes.append(f"norm_eps is {trunk['eps']}: d2v takes it for the norm of the embeddings too (fairseq: 1e-5)")
    said = {"post_mlp_drop": settings.get("post_mlp_drop", 0.1), "modalities.text.dropout": section.get("dropout", 0.1)}
    notes += cfg.other_dropouts(said, trunk["dropout"])
    notes += cfg.ignored(settings, "cfg.model", v2.OFF_IN_MODEL)
    notes += cfg.ignored(section, "cfg.model.modalities.text", v2.OFF)
    longest = student["front"]["init_args"]["max_positions"]
    notes += cfg.contradictions(section, {"max_source_positions": longest}, "modalities.text.")
    tuned = cfg.fine_tuned(any_begins(found.left_out, "classification_heads."))
    take_fairseq_text_classifier(found, cfg.own_model_settings(content))
    return v2.finish_v2(found, "text", tuned, "MIT (fairseq)", student, _masking(section), decoder)


def _masking(section: dict[str, Any]) -> Recipe:
    ratio, span = section.get("mask_prob", 0.7), section.get("mask_length", 5)
    if span == 1:
        return node("d2v.model.masking.RandomMasking", mask_ratio=ratio)
    adjust = section.get("mask_prob_adjust", 0)
    return node("d2v.model.masking.SpanMasking", mask_ratio=ratio, span=span, adjust=adjust)
