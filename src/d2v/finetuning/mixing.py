"""Mixup and CutMix: pictures of a batch are blended with each other, and their labels with them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from d2v.errors import UserError


@dataclass(frozen=True)
class Mixing:
    """Mixes each picture of a training batch with the one before it, all by the same share.

    Args:
        mixup: Alpha of the beta distribution of the share with which whole pictures are blended (mixup, arXiv
            1710.09412); 0: never.
        cutmix: The same for the area of a rectangle that comes from the other picture (CutMix, arXiv 1905.04899).
        prob: Probability that a batch is mixed at all.
        switch_prob: Probability of CutMix where both may be.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    prob: float = 1.0
    switch_prob: float = 0.5

    def __post_init__(self) -> None:
        for name in ("prob", "switch_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 (never) or more, not {getattr(self, name)}")
        if not self.mixup and not self.cutmix:
            raise ValueError("mixup and cutmix are both 0: set one of them, or model.mixing to null")

    def apply(
        self, pixels: Float[Tensor, "b c h w"], labels: Int64[Tensor, "b"], num_classes: int
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b k"]]:
        """The mixed pictures and the shares of the classes in them; drawn from torch's global CPU generator.

        Args:
            pixels: A batch; it is left as it is.
            labels: The class of each.
            num_classes: K.

        Raises:
            UserError: The inputs are not pictures.
        """
        from torchvision.transforms import v2  # here, because classifiers of sound and text need no torchvision

        if pixels.ndim != 4:
            raise UserError(
                f"model.mixing: only pictures can be mixed, not inputs of shape {list(pixels.shape)}; set it to null"
            )
        mixed, switch = torch.rand(2).tolist()
        if mixed >= self.prob:
            return pixels, one_hot(labels, num_classes).float()
        if self.cutmix and (not self.mixup or switch < self.switch_prob):
            return v2.CutMix(alpha=self.cutmix, num_classes=num_classes)(pixels, labels)
        return v2.MixUp(alpha=self.mixup, num_classes=num_classes)(pixels, labels)
