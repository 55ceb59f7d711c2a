"""Settings of the published runs, and where a checkpoint says otherwise.

Sources: fairseq 3d262bb, ``examples/data2vec/config`` (the file that each names); README of data2vec_vision af9a363.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PublishedRecipe:
    """What a published run sets of the method; sizes are the model's own."""

    source: str
    settings: Mapping[str, Any]


def differences(settings: Mapping[str, Any], recipe: PublishedRecipe) -> list[str]:
    """A note that names the settings of a checkpoint that are not the published ones; what it does not set is left out.

    Args:
        settings: Of the checkpoint; those of a section below under "section.key".
        recipe: That of the model.
    """
    other = []
    for key, value in recipe.settings.items():
        said = settings.get(key)
        if said is not None and not _same(said, value):
            other.append(f"{key}: the checkpoint says {said}, the published recipe {value}")
    if not other:
        return []
    return [f"{'; '.join(other)}. The checkpoint's values are taken (the recipe is {recipe.source})"]


def v2_differences(
    settings: Mapping[str, Any],
    prefix: str,
    section: Mapping[str, Any],
    recipes: Mapping[int, PublishedRecipe],
    width: int,
) -> list[str]:
    """The same of a 2.0 model with a section of its modality, by the recipe of its width."""
    return differences(flat(settings, prefix, section), by_width(recipes, width))


def flat(settings: Mapping[str, Any], prefix: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of a section below."""
    return {**settings, **{f"{prefix}.{key}": value for key, value in section.items()}}


def by_width(recipes: Mapping[int, PublishedRecipe], width: int) -> PublishedRecipe:
    """The recipe of the model of that width; of one that was not published, Base's."""
    return recipes.get(width, recipes[768])


def _same(said: Any, published: Any) -> bool:
    if isinstance(said, (bool, int, float)) and isinstance(published, (bool, int, float)):
        return abs(said - published) <= 1e-9
    return bool(said == published)


_V2_VISION = {
    "ema_decay": 0.9998, "ema_end_decay": 0.99999, "ema_anneal_end_step": 100_000, "instance_norm_target_layer": True,
    "layer_norm_target_layer": False, "layer_norm_targets": True, "end_of_block_targets": False,
    "average_top_k_layers": 10, "clone_batch": 16, "norm_eps": 1e-6, "cls_loss": 0.01, "ema_encoder_only": False,
    "image.inverse_mask": True, "image.mask_prob": 0.8, "image.mask_prob_adjust": 0.07, "image.mask_length": 3,
    "image.mask_noise_std": 0.01, "image.ema_local_encoder": True, "image.num_extra_tokens": 1,
}  # fmt: skip
_V2_VISION_LARGE = {
    **_V2_VISION, "ema_anneal_end_step": 150_000, "average_top_k_layers": 18, "image.mask_prob": 0.75,
    "image.mask_prob_adjust": 0.1,
}  # fmt: skip
_V2_VISION_HUGE = {**_V2_VISION_LARGE, "ema_end_decay": 1, "ema_anneal_end_step": 300_000, "average_top_k_layers": 24}
V2_VISION = {
    768: PublishedRecipe("fairseq's config/v2/base_images_only_task.yaml", _V2_VISION),
    1024: PublishedRecipe("fairseq's config/v2/large_images_only_task.yaml", _V2_VISION_LARGE),
    1280: PublishedRecipe("fairseq's config/v2/huge_images14_only_task.yaml", _V2_VISION_HUGE),
}

_SPEECH = {
    "loss_beta": 0, "clone_batch": 8, "ema_decay": 0.999, "ema_end_decay": 0.99999, "ema_anneal_end_step": 75_000,
    "ema_encoder_only": False, "average_top_k_layers": 8, "instance_norm_target_layer": True,
    "layer_norm_target_layer": False, "layer_norm_targets": False, "norm_eps": 1e-5, "audio.mask_prob": 0.5,
    "audio.mask_prob_adjust": 0.05, "audio.mask_length": 5, "audio.inverse_mask": False, "audio.mask_noise_std": 0.01,
    "audio.ema_local_encoder": False, "audio.use_alibi_encoder": True, "audio.learned_alibi_scale": True,
    "audio.learned_alibi_scale_per_head": True,
}  # fmt: skip
_SPEECH_LARGE = {
    **_SPEECH, "clone_batch": 12, "ema_decay": 0.9997, "ema_end_decay": 1, "ema_anneal_end_step": 300_000,
    "average_top_k_layers": 16, "audio.mask_prob": 0.55, "audio.mask_prob_adjust": 0.1,
}  # fmt: skip
V2_SPEECH = {
    768: PublishedRecipe("fairseq's config/v2/base_audio_only_task.yaml", _SPEECH),
    1024: PublishedRecipe("fairseq's config/v2/large_audio_only_task.yaml", _SPEECH_LARGE),
}

_TEXT = {
    "loss_beta": 0, "loss_scale": 1, "clone_batch": 8, "ema_decay": 0.9999, "ema_end_decay": 0.99999,
    "ema_anneal_end_step": 100_000, "ema_encoder_only": True, "average_top_k_layers": 12,
    "layer_norm_target_layer": False, "instance_norm_target_layer": True, "instance_norm_targets": False,
    "layer_norm_targets": False, "norm_eps": 1e-5, "text.mask_prob": 0.48, "text.mask_length": 1,
    "text.mask_noise_std": 0.01,
}  # fmt: skip
_TEXT_LARGE = {
    **_TEXT, "average_top_k_layers": 24, "layer_norm_target_layer": True, "instance_norm_target_layer": False,
    "instance_norm_targets": True, "text.mask_prob": 0.5,
}  # fmt: skip
V2_TEXT = {
    768: PublishedRecipe("fairseq's config/v2/base_text_only_task.yaml", _TEXT),
    1024: PublishedRecipe("fairseq's config/v2/large_text_only_task.yaml", _TEXT_LARGE),
}

V1_SPEECH = PublishedRecipe(
    "fairseq's config/audio/pretraining/base_librispeech.yaml",
    {
        "mask_prob": 0.65,
        "mask_length": 10,
        "loss_beta": 0,
        "instance_norm_target_layer": True,
        "average_top_k_layers": 8,
        "ema_decay": 0.999,
        "ema_end_decay": 0.9999,
        "ema_anneal_end_step": 30_000,
        "ema_transformer_only": True,
        "ema_layers_only": True,
    },
)
V1_TEXT = PublishedRecipe(
    "fairseq's config/text/pretraining/base.yaml",
    {
        "head_layers": 2,
        "average_top_k_layers": 10,
        "layer_norm_target_layer": True,
        "loss_scale": 1,
        "loss_beta": 4,
        "ema_decay": 0.999,
        "ema_end_decay": 0.9999,
        "ema_anneal_end_step": 300_000,
        "ema_transformer_layers_only": True,
        "task.mask_prob": 0.35,
        "task.mask_multiple_length": 4,
        "task.random_token_prob": 0,
        "task.leave_unmasked_prob": 0,
    },
)
_VISION = {
    "num_mask_patches": 120, "max_mask_patches_per_block": 196, "min_mask_patches_per_block": 16,
    "layer_results": "end", "no_target_layer_norm_last": False, "post_target_layer_norm": True, "l1_beta": 2.0,
    "l2_loss": False, "ema_decay": 0.9998, "attn_drop_rate": 0.05, "drop_path": 0.25,
}  # fmt: skip
V1_VISION = {
    768: PublishedRecipe("data2vec_vision's README, Base", {**_VISION, "layer_scale_init_value": 1e-4}),
    1024: PublishedRecipe(
        "data2vec_vision's README, Large",
        {**_VISION, "layer_scale_init_value": 1e-5, "attn_drop_rate": 0.15, "drop_path": 0.2},
    ),
}
