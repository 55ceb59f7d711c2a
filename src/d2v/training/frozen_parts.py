"""Parts that are not trained."""

from collections.abc import Sequence

from torch import nn

from d2v.errors import UserError


class FrozenParts:
    """Parts of one or several encoders that are never trained: no gradient, and eval mode, so that dropout is off.

    Args:
        encoder: Its parameters are frozen here.
        names: Of modules or parameters, with all below them; "" is all of it.

    Raises:
        UserError: Nothing has such a name.
    """

    def __init__(self, encoder: nn.Module, names: Sequence[str]) -> None:
        parameters = dict(encoder.named_parameters())
        self.modules: list[nn.Module] = []
        for name in names:
            chosen = [path for path in parameters if _within(path, name)]
            if not chosen:
                parts = dict.fromkeys(".".join(path.split(".")[:2]) for path in parameters)
                raise UserError(
                    f"model.freeze: the encoder has no part {name!r}; it has {', '.join(parts)}, and what is in them"
                )
            for path in chosen:
                parameters[path].requires_grad_(False)
            self.modules += [module for path, module in encoder.named_modules() if _within(path, name)]
        self.whole = not any(parameter.requires_grad for parameter in parameters.values())

    def eval(self) -> None:
        """Call after each ``train()`` of what holds the encoder."""
        for module in self.modules:
            module.training = False


def _within(path: str, name: str) -> bool:
    return name in ("", path) or path.startswith(f"{name}.")
