"""The official training code as packages give it; where none does, its operations in their order (official.py)."""

import copy
import functools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

for name, kind in (("float", float), ("int", int)):  # which fairseq 0.12.2 still uses
    setattr(np, name, kind)

from fairseq.examples.data2vec.models.data2vec_audio import Data2VecAudioConfig, Data2VecAudioModel  # noqa: E402
from fairseq.examples.data2vec.models.data2vec_text import Data2VecTextConfig, Data2VecTextEncoder  # noqa: E402
from fairseq.modules import LayerNorm, PositionalEmbedding  # noqa: E402
from funasr.models.emotion2vec.audio import AudioEncoder  # noqa: E402
from funasr.models.emotion2vec.base import ModalitySpecificEncoder, get_alibi_bias  # noqa: E402
from funasr.models.emotion2vec.modules import (  # noqa: E402
    AltBlock,
    BlockEncoder,
    Decoder1d,
    DecoderBase,
    FixedPositionalEncoder,
)

Losses = tuple[Tensor, Any]
"""Sum of the losses, and what the gradients are divided by."""


class Speech1(nn.Module):
    """1.0 speech: all of it is fairseq's."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.model = Data2VecAudioModel(_filled(Data2VecAudioConfig(), settings))
        self.model.set_num_updates(0)  # which makes the teacher

    def losses(self, source: Tensor, mask: Tensor) -> Losses:
        result = self.model(source, None, mask_indices=mask)
        for name in ("target_var", "pred_var"):
            result[name].item()
        return result["losses"]["regression"].float().sum(), result["sample_size"]

    def average(self, update: int) -> None:
        self.model.set_num_updates(update)


class Text1(nn.Module):
    """1.0 text: all of it is fairseq's."""

    def __init__(self, settings: dict[str, Any], vocab_size: int, mask_id: int) -> None:
        super().__init__()
        names = {"<mask>": mask_id}

        class Vocabulary:
            pad, unk, index, symbols = (lambda _: 1), (lambda _: 3), (lambda _, name: names[name]), ()
            __len__ = lambda _: vocab_size  # noqa: E731

        self.mask_id = mask_id
        self.model = Data2VecTextEncoder(_filled(Data2VecTextConfig(), settings), Vocabulary(), None)
        for layer in self.model.sentence_encoder.layers:  # 0.12.2 has a second copy, for inference alone
            layer._parameters.clear()
            layer.can_use_fastpath = False
        self.model.set_num_updates(0)

    def losses(self, source: Tensor, mask: Tensor) -> Losses:
        result = self.model(torch.where(mask, self.mask_id, source), source)
        return result["losses"]["main"].float().sum(), result["sample_size"]

    def average(self, update: int) -> None:
        self.model.set_num_updates(update)


def _filled(config: Any, settings: dict[str, Any]) -> Any:
    """A dataclass of fairseq's with these values, tables within it too."""
    for name, value in settings.items():
        if isinstance(value, dict):
            _filled(getattr(config, name), value)
        elif name != "_name":
            setattr(config, name, value)
    return config


class TextEncoder(ModalitySpecificEncoder):
    """2.0's encoder of text, on the official base class."""

    def __init__(self, cfg: Any, width: int, make_block: Any, norm: Any, vocab_size: int) -> None:
        blocks = nn.ModuleList(make_block(0.0) for _ in range(cfg.prenet_depth))
        super().__init__(
            modality_cfg=cfg, embed_dim=width, local_encoder=TextEmbedding(cfg, width, vocab_size),
            project_features=nn.Identity(), fixed_positional_encoder=None, relative_positional_encoder=None,
            context_encoder=BlockEncoder(blocks, norm(width) if len(blocks) else None, False, 0.0, 0.0),
            decoder=Decoder1d(cfg.decoder, width), get_alibi_bias=functools.partial(get_alibi_bias, alibi_biases={}),
        )  # fmt: skip


class TextEmbedding(nn.Module):
    def __init__(self, cfg: Any, width: int, vocab_size: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, width, 1)
        self.embed_positions = None
        if cfg.max_source_positions is not None:
            self.embed_positions = PositionalEmbedding(cfg.max_source_positions, width, 1, learned=True)
        self.layernorm_embedding = LayerNorm(width)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        x = 1.0 * self.embed_tokens(tokens)
        if self.embed_positions is not None:
            x = x + self.embed_positions(tokens)
        return self.dropout(self.layernorm_embedding(x))


class Patches(nn.Module):
    def __init__(self, cfg: Any, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(cfg.in_chans, width, cfg.patch_size, cfg.patch_size)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.proj(pictures).flatten(2).transpose(1, 2)


class Decoder2d(DecoderBase):
    """2.0's decoder of pictures, on the official base class."""

    def __init__(self, cfg: Any, width: int, side: int) -> None:
        super().__init__(cfg)
        self.side, channels, kernel = side, cfg.decoder_dim, cfg.decoder_kernel
        blocks = []
        for number in range(cfg.decoder_layers):
            inputs = channels if number else width
            blocks.append(
                nn.Sequential(
                    nn.Conv2d(inputs, channels, kernel, padding=kernel // 2, groups=cfg.decoder_groups),
                    ChannelsLast(), LayerNorm(channels, elementwise_affine=False), ChannelsFirst(), nn.GELU(),
                )
            )  # fmt: skip
        self.blocks, self.proj = nn.Sequential(*blocks), nn.Linear(channels, width)

    def forward(self, x: Tensor, mask_info: Any) -> Tensor:
        rows, _, width = x.shape
        x = residual = x.transpose(2, 1).reshape(rows, width, self.side, self.side)
        for number, layer in enumerate(self.blocks):
            residual = x = self.add_residual(layer(x), residual, number, mask_info)
        return self.proj(x.reshape(rows, x.shape[1], -1).transpose(1, 2))


class ChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(-3, -1)


ChannelsFirst = ChannelsLast  # the same two axes change places


class ImageEncoder(ModalitySpecificEncoder):
    """2.0's encoder of pictures, on the official base class."""

    def __init__(self, cfg: Any, width: int, make_block: Any, norm: Any) -> None:
        side = cfg.input_size // cfg.patch_size
        positions = FixedPositionalEncoder(nn.Parameter(torch.randn(1, side * side, width), requires_grad=False))
        blocks = nn.ModuleList(make_block(0.0) for _ in range(cfg.prenet_depth))
        super().__init__(
            modality_cfg=cfg, embed_dim=width, local_encoder=Patches(cfg, width), project_features=nn.Identity(),
            fixed_positional_encoder=positions, relative_positional_encoder=None,
            context_encoder=BlockEncoder(blocks, norm(width), False, cfg.prenet_layerdrop, cfg.prenet_dropout),
            decoder=Decoder2d(cfg.decoder, width, side), get_alibi_bias=None,
        )  # fmt: skip


class Official2(nn.Module):
    """2.0 of one medium."""

    def __init__(self, settings: dict[str, Any], vocab_size: int = 0) -> None:
        super().__init__()
        cfg = self.cfg = _namespace(settings)
        mode = self.mode = cfg.supported_modality
        norm = functools.partial(nn.LayerNorm, eps=cfg.norm_eps, elementwise_affine=cfg.norm_affine)

        def make_block(drop_path: float, dim: Any = None, heads: Any = None) -> AltBlock:
            return AltBlock(
                cfg.embed_dim, cfg.num_heads, cfg.mlp_ratio, qkv_bias=True, drop=cfg.encoder_dropout,
                attn_drop=cfg.attention_dropout, mlp_drop=cfg.activation_dropout, post_mlp_drop=cfg.post_mlp_drop,
                drop_path=drop_path, norm_layer=norm, layer_norm_first=False, ffn_targets=True,
            )  # fmt: skip

        medium = getattr(cfg.modalities, mode.lower())
        if mode == "AUDIO":
            encoder: Any = AudioEncoder(medium, cfg.embed_dim, make_block, norm, False, {})
        elif mode == "TEXT":
            encoder = TextEncoder(medium, cfg.embed_dim, make_block, norm, vocab_size)
        else:
            encoder = ImageEncoder(medium, cfg.embed_dim, make_block, norm)
        self.modality_encoders = nn.ModuleDict({mode: encoder})
        self.dropout_input = nn.Dropout(cfg.dropout_input)
        self.blocks = nn.ModuleList(make_block(0.0) for _ in range(cfg.depth))
        teacher = copy.deepcopy(self.blocks if cfg.ema_encoder_only else self)
        if not cfg.ema_encoder_only:
            copied: Any = teacher.modality_encoders[mode]
            copied.decoder = None
            if not medium.ema_local_encoder:
                copied.local_encoder = copied.project_features = None
        self.teachers = [teacher.requires_grad_(False)]
        self.fp32 = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}

    def losses(self, source: Tensor, mask: Tensor) -> Losses:
        cfg, encoder = self.cfg, self.modality_encoders[self.mode]
        clones = len(mask) // len(source)
        out = encoder(source, None, True, True, clone_batch=clones, precomputed_mask=mask)
        x, info = self.dropout_input(out["x"]), out["encoder_mask"]
        for block in self.blocks:
            if cfg.layerdrop == 0 or np.random.random() > cfg.layerdrop:  # noqa: NPY002
                x, _ = block(x, padding_mask=out["padding_mask"], alibi_bias=out["alibi_bias"])
        predictions = encoder.decoder(*encoder.decoder_input(x, info))
        extra = encoder.modality_cfg.num_extra_tokens
        all_targets = targets = self._targets(source, out["local_features"], extra)
        if clones > 1:
            targets = targets.repeat_interleave(clones, 0)
        masked = info.mask.bool()
        targets, predictions = targets[masked], predictions[masked]
        count = info.mask.unsqueeze(-1).sum().long()
        total = self._distance(predictions, targets) * cfg.d2v_loss
        total = total.float().sum()
        if cfg.cls_loss > 0:
            means = all_targets.mean(dim=1).repeat_interleave(clones, 0)
            cls = self._distance(x[:, extra - 1], means) * (cfg.cls_loss * count)
            total = total + cls.float().sum()
        with torch.no_grad():  # what is logged at each step
            for values in (predictions, targets):
                torch.sqrt(values.float().var(dim=0) + 1e-6).mean().item()
        return total, count

    @torch.no_grad()
    def _targets(self, source: Tensor, features: Tensor, extra: int) -> Tensor:
        teacher: Any = self.teachers[0].eval()
        blocks: Any = teacher
        if self.cfg.ema_encoder_only:
            encoder: Any = self.modality_encoders[self.mode]
            seen = encoder.contextualized_features(features, None, mask=False, remove_masked=False)
        else:
            blocks, encoder = teacher.blocks, teacher.modality_encoders[self.mode]
            if encoder.modality_cfg.ema_local_encoder:
                seen = encoder(source, None, mask=False, remove_masked=False)
            else:
                seen = encoder.contextualized_features(features, None, mask=False, remove_masked=False)
        x, layers = seen["x"], []
        for block in blocks:
            x, layer = block(x, padding_mask=seen["padding_mask"], alibi_bias=seen["alibi_bias"])
            layers.append(layer[:, extra:])
        layers = layers[-self.cfg.average_top_k_layers :]
        if self.cfg.instance_norm_target_layer:
            layers = [F.instance_norm(layer.transpose(1, 2).float()).transpose(1, 2) for layer in layers]
        if self.cfg.layer_norm_target_layer:
            layers = [F.layer_norm(layer.float(), layer.shape[-1:]) for layer in layers]
        total = layers[0].float()
        for layer in layers[1:]:
            total.add_(layer.float())
        total = total.div_(len(layers))
        return F.layer_norm(total, total.shape[-1:]) if self.cfg.layer_norm_targets else total

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        x = x.reshape(-1, x.shape[-1]).float()
        scale = 1 / math.sqrt(x.shape[-1]) if self.cfg.loss_scale is None else self.cfg.loss_scale
        return F.mse_loss(x, y.reshape(x.shape), reduction="none") * scale

    @torch.no_grad()
    def average(self, update: int, decay: float = 0.999) -> None:
        """Tensor by tensor, then all of it onto the teacher, as `EMAModule` of fairseq's main branch does."""
        model = self.blocks if self.cfg.ema_encoder_only else self
        state = {}
        for name, parameter in model.named_parameters():
            if name not in self.fp32:
                continue
            mean = self.fp32[name]
            if parameter.requires_grad:
                mean.mul_(decay).add_(parameter.data.to(mean.dtype), alpha=1 - decay)
            else:
                mean.copy_(parameter.data)
            state[name] = mean
        self.teachers[0].load_state_dict(state, strict=False)


def _namespace(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return SimpleNamespace(**{name: _namespace(each) for name, each in value.items()})


class Attention1(nn.Module):
    """BEiT's."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.attn_drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        rows, length, width = x.shape
        qkv = F.linear(x, self.qkv.weight, torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias]))
        q, k, v = qkv.reshape(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q * self.scale) @ k.transpose(-2, -1) + bias
        x = self.attn_drop(scores.softmax(dim=-1)) @ v
        return self.proj(x.transpose(1, 2).reshape(rows, length, width))


class Block1(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.drop_path = Attention1(width, heads, dropout), drop_path
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.gamma_1, self.gamma_2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self._drop(self.gamma_1 * self.attn(self.norm1(x), bias))
        return x + self._drop(self.gamma_2 * self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x)))))

    def _drop(self, x: Tensor) -> Tensor:
        if self.drop_path == 0 or not self.training:
            return x
        kept = 1 - self.drop_path
        return x.div(kept) * (kept + torch.rand(len(x), 1, 1, dtype=x.dtype)).floor_()


class Bias1(nn.Module):
    def __init__(self, side: int, heads: int) -> None:
        super().__init__()
        from d2v.nn.positional import relative_position_index

        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2 + 3, heads))
        self.register_buffer("relative_position_index", relative_position_index((side, side), 1, torch.device("cpu")))

    def forward(self) -> Tensor:
        index = self.relative_position_index
        return self.relative_position_bias_table[index.view(-1)].view(*index.shape, -1).permute(2, 0, 1).contiguous()


class Vision1(nn.Module):
    """1.0 vision: a peer in the official order, not the official code."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        cfg = self.cfg = _namespace(settings)
        width, side = cfg.embed_dim, cfg.img_size // cfg.patch_size
        self.patch_embed = Patches(SimpleNamespace(in_chans=3, patch_size=cfg.patch_size), width)
        self.cls_token, self.mask_token = (nn.Parameter(torch.zeros(1, 1, width)) for _ in range(2))
        self.rel_pos_bias = Bias1(side, cfg.num_heads)
        rates = np.linspace(0, cfg.drop_path_rate, cfg.depth)
        self.blocks = nn.ModuleList(Block1(width, cfg.num_heads, cfg.attn_drop_rate, float(rate)) for rate in rates)
        self.norm, self.lm_head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, width)
        self.teachers = [copy.deepcopy(self).requires_grad_(False).eval()]

    def ends(self, pictures: Tensor, mask: Tensor | None) -> list[Tensor]:
        x = self.patch_embed(pictures)
        if mask is not None:
            weight = mask[..., None].type_as(x)
            x = x * (1 - weight) + self.mask_token.expand(*x.shape[:2], -1) * weight
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        bias, ends = self.rel_pos_bias(), []
        for block in self.blocks:
            x = block(x, bias)
            ends.append(x)
        return ends

    def losses(self, source: Tensor, mask: Tensor) -> Losses:
        cfg, flat = self.cfg, mask.flatten()
        with torch.no_grad():
            teacher: Any = self.teachers[0]
            layers = [end[:, 1:] for end in teacher.ends(source, None)][-cfg.top_k :]
            targets = sum(F.layer_norm(layer.float(), layer.shape[-1:]) for layer in layers) / cfg.top_k
            targets = F.layer_norm(targets.float(), targets.shape[-1:])
            targets = targets.reshape(-1, targets.shape[-1])[flat]
        x = self.norm(self.ends(source, mask)[-1])[:, 1:]
        predictions = self.lm_head(x.reshape(-1, x.shape[-1])[flat]).float()
        torch.sqrt(predictions.var(dim=0) + 1e-6)  # computed there, whatever its weight
        loss = F.smooth_l1_loss(predictions, targets, beta=cfg.beta)
        loss.item()
        return loss, 1

    @torch.no_grad()
    def average(self, update: int, decay: float = 0.9998) -> None:
        """As `ModelEmaV2` of timm, but for the index, which is no weight."""
        states = self.teachers[0].state_dict().values(), self.state_dict().values()
        for old, new in zip(*states, strict=True):
            if old.is_floating_point():
                old.copy_(decay * old + (1.0 - decay) * new)
