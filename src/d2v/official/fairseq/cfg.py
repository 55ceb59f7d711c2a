"""The settings in a fairseq checkpoint (``cfg``), and those parts of the method that both of its layouts set alike."""

from collections.abc import Mapping
from typing import Any

from d2v.checkpoints.recipe import node
from d2v.official.imported import Recipe, one_norm
from d2v.official.names import given


def model_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Section ``model`` of a checkpoint's configuration, without what is null; empty if there is none.

    Of a classifier or a recogniser on a pretrained model it is the section of the pretrained one.
    """
    config = content.get("cfg")
    model = content.get("args")
    if isinstance(config, dict):
        model = config.get("model")
    if not isinstance(model, dict):
        return {}
    if "w2v_args" in model:  # a recogniser, whose own section says nothing about the encoder
        pretrained = model["w2v_args"]
        if not isinstance(pretrained, dict):
            return {}
        return given(pretrained.get("model", pretrained))
    pretrained = model.get("pretrained_model_args")
    if isinstance(pretrained, dict) and isinstance(pretrained.get("model"), dict):
        model = pretrained["model"]
    return given(model)


def task_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Section ``task``, likewise: of a classifier it is the pretraining's, if the file holds that."""
    config = content.get("cfg")
    if not isinstance(config, dict):
        return {}
    model = config.get("model")
    if isinstance(model, dict) and isinstance(model.get("pretrained_model_args"), dict):
        config = model["pretrained_model_args"]
    return given(config.get("task"))


def own_model_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Section ``model`` of a classifier itself; empty if there is none."""
    config = content.get("cfg")
    if not isinstance(config, dict):
        return {}
    return given(config.get("model"))


def ema_schedule(settings: Mapping[str, Any]) -> dict[str, Any]:
    """fairseq's settings of the teacher's decay."""
    return {
        "start": settings.get("ema_decay", 0.999),
        "end": settings.get("ema_end_decay", 0.9999),
        "anneal": settings.get("ema_anneal_end_step", 0),
    }


def contradictions(settings: Mapping[str, Any], real: Mapping[str, Any], where: str = "") -> list[str]:
    """Notes about settings that the weights belie.

    Args:
        settings: Of a section; what it does not set is not compared.
        real: What the weights say, by the names of the settings.
        where: The section below ``cfg.model``, with a dot at its end.
    """
    notes = []
    for key, value in real.items():
        said = settings.get(key, value)
        if said != value:
            notes.append(f"cfg.model.{where}{key} says {said}, the weights say {value}: taken from the weights")
    return notes


def fine_tuned(holds: bool, how: str = "fine-tuned") -> str:
    """What the name of a layout ends with."""
    return f", {how}" if holds else ""


def ignored(settings: Mapping[str, Any], section: str, off: Mapping[str, Any]) -> list[str]:
    """Notes about settings that ask for what d2v has not; ``off`` holds the value of each that asks for nothing."""
    notes = []
    for key, value in off.items():
        if settings.get(key, value) != value:
            notes.append(f"{section}.{key} is {settings[key]}: d2v has no such thing")
    return notes


def other_dropouts(said: Mapping[str, float], dropout: float) -> list[str]:
    """Notes about dropouts that differ from the one that d2v has."""
    notes = []
    for key, value in said.items():
        if value != dropout:
            notes.append(f"{key} is {value}, encoder_dropout {dropout}: d2v has one dropout, the latter is taken")
    return notes


def regression_loss(settings: Mapping[str, Any], notes: list[str]) -> Recipe:
    """fairseq's loss settings: beta 0 is the squared distance, scale null is 1/sqrt(D)."""
    scale, beta = settings.get("loss_scale"), settings.get("loss_beta", 0)
    if scale not in (None, 1):
        notes.append(f"loss_scale {scale} is not kept: only null (1/sqrt(D)) and 1 can be said; taken as 1")
    kind = {"kind": "smooth_l1", "beta": float(beta)} if beta else {"kind": "mse"}
    return node("d2v.model.losses.RegressionLoss", **kind, reduction="scaled_sum" if scale is None else "sum")


def targets(settings: Mapping[str, Any], depth: int, end_of_block: bool, notes: list[str]) -> Recipe:
    """fairseq's target settings.

    Args:
        settings: Section ``model``.
        depth: Blocks of the encoder; fairseq silently averages them all if there are fewer than K.
        end_of_block: Default of ``end_of_block_targets``.
        notes: Extended by what cannot be kept.
    """
    return node(
        "d2v.model.targets.TopKTargets",
        top_k=min(int(settings.get("average_top_k_layers", 8)), depth),
        source="end" if settings.get("end_of_block_targets", end_of_block) else "ffn",
        layer_norm=_norm(settings, "target_layer", ("batch", "instance", "layer"), notes),
        mean_norm=_norm(settings, "targets", ("layer", "instance"), notes),
    )


def _norm(settings: Mapping[str, Any], where: str, order: tuple[str, ...], notes: list[str]) -> str | None:
    return one_norm({norm: settings.get(f"{norm}_norm_{where}") for norm in order}, f"({where})", notes)
