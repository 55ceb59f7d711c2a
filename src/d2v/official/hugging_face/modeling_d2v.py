"""Encoders of data2vec 2.0 for Hugging Face transformers 5, which needs nothing of d2v for them.

`d2v export --format hf` writes this file beside the weights; ``from_pretrained`` with ``trust_remote_code=True`` runs
it. The settings are the encoder's recipe in ``config.json``, and tensors have d2v's names: so ``d2v.load`` reads the
same folder, also one that ``save_pretrained`` wrote.

Letters: B samples, N tokens, C extra tokens (the first is CLS) before them, T = C + N, D width, H heads.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, Wav2Vec2FeatureExtractor
from transformers.loss.loss_utils import ForSequenceClassificationLoss
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutput, SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

_INPUTS = {"vision": "pixel_values", "audio": "input_values", "speech": "input_values", "text": "input_ids"}


def _of_trunk(name: str) -> property:
    """A setting of the trunk, under the name that it has in transformers."""

    def write(config: "D2vConfig", value: Any) -> None:
        config.trunk[name] = value

    return property(lambda config: config.trunk[name], write)


class D2vConfig(PreTrainedConfig):
    """``config.json`` of d2v, with what transformers adds.

    Args:
        method: ``{"student": {"front": {"class_path", "init_args"}, "trunk": {...}}}``: the recipe of the encoder.
        head: Of a fine-tuned model: its ``recipe``, ``task``, ``pool`` ("mean", "cls" or "none") and ``names``.
        vocab_size: Symbols of a recogniser; of text its types.
        kwargs: As of all models of transformers.
    """

    model_type = "d2v"
    has_no_defaults_at_init = True

    hidden_size = _of_trunk("width")
    num_hidden_layers = _of_trunk("depth")
    num_attention_heads = _of_trunk("num_heads")
    hidden_dropout = _of_trunk("dropout")
    attention_dropout = _of_trunk("attention_dropout")
    activation_dropout = _of_trunk("activation_dropout")
    layerdrop = _of_trunk("layer_drop")
    drop_path_rate = _of_trunk("drop_path")

    def __init__(
        self,
        method: dict[str, Any] | None = None,
        head: dict[str, Any] | None = None,
        vocab_size: int = 32,
        pad_token_id: int = 0,
        ctc_loss_reduction: str = "sum",
        ctc_zero_infinity: bool = True,
        **kwargs: Any,
    ) -> None:
        self.method, self.head = method or {}, head
        self.vocab_size, self.pad_token_id = vocab_size, pad_token_id
        self.ctc_loss_reduction, self.ctc_zero_infinity = ctc_loss_reduction, ctc_zero_infinity
        super().__init__(**kwargs)

    @property
    def trunk(self) -> dict[str, Any]:
        """Settings of the blocks."""
        return self.method["student"]["trunk"]

    @property
    def front(self) -> dict[str, Any]:
        """Settings of what stands before the blocks."""
        return self.method["student"]["front"]["init_args"]

    @property
    def medium(self) -> str:
        """One of "vision", "speech", "audio" (spectrograms) and "text"."""
        return self.method["student"]["front"]["class_path"].split(".")[2]

    @property
    def num_extra_tokens(self) -> int:
        """C: so many tokens stand before those of the input in ``last_hidden_state``."""
        return self.front.get("num_cls", int(self.medium == "audio"))

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples from one frame of speech to the next."""
        return math.prod(stride for _, _, stride in self.front["extractor"])


class D2vFeatureExtractor(Wav2Vec2FeatureExtractor):
    """Sound with zero mean and unit variance as in fairseq and d2v, whose eps is 1e-5: quiet clips stay quieter."""

    @staticmethod
    def zero_mean_unit_var_norm(input_values: list, attention_mask: Any, padding_value: float = 0.0) -> list:
        normed = []
        for number, values in enumerate(input_values):
            length = len(values) if attention_mask is None else int(attention_mask[number].sum())
            mean, deviation = values[:length].mean(), (values[:length].var() + 1e-5) ** 0.5
            normed.append((values - mean) / deviation)
            normed[-1][length:] = padding_value
        return normed


@dataclass
class D2vOutput(BaseModelOutputWithPooling):
    """``last_hidden_state`` [B, T, D]; ``hidden_states``: what the first block reads and where each ends, [B, T, D];
    ``pooler_output`` [B, D]: the mean of the tokens that are neither padding nor extra."""

    attention_mask: Tensor | None = None
    """[B, T], False where a token is padding; None: nowhere."""


# What feature extractors give: tokens [B, N, D], their grid, and [B, N], False where they are padding.
Tokens = tuple[Tensor, tuple[int, ...], Tensor | None]


class _Patches(nn.Module):
    def __init__(self, width: int, front: dict[str, Any]) -> None:
        super().__init__()
        size = front["patch_size"]
        self.proj = nn.Conv2d(front.get("in_channels", 1), width, size, size)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tokens:
        if x.ndim == 3:  # a spectrogram [B, frames, bins], as feature extractors of transformers give it
            x = x[:, None]
        size = self.proj.kernel_size[0]
        if x.shape[2] % size or x.shape[3] % size or mask is not None:
            raise ValueError(f"give inputs whose sides {size} divides, without attention_mask; these are {x.shape[2:]}")
        x = self.proj(x)
        return x.flatten(2).transpose(1, 2), tuple(x.shape[2:]), None


class _Words(nn.Module):
    def __init__(self, width: int, front: dict[str, Any]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(front["vocab_size"], width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tokens:
        return self.embedding(x), (x.shape[1],), mask


class _Frames(nn.Module):
    def __init__(self, width: int, front: dict[str, Any]) -> None:
        super().__init__()
        self.layers: Any = nn.ModuleList()
        before = front.get("in_channels", 1)
        for channels, kernel, stride in front["extractor"]:
            convolution = nn.Conv1d(before, channels, kernel, stride, bias=False)
            self.layers.append(nn.ModuleDict({"conv": convolution, "norm": nn.LayerNorm(channels)}))
            before = channels
        self.norm = nn.LayerNorm(before)
        self.proj = nn.Linear(before, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tokens:
        if x.ndim == 2:
            x = x[..., None]  # channels last, of which cepstra have several
        frames = None if mask is None else mask.sum(dim=1)
        for layer in self.layers:
            x = layer["conv"](x.transpose(1, 2)).transpose(1, 2)
            x = F.gelu(layer["norm"](x))
            if frames is not None:
                frames = (frames - layer["conv"].kernel_size[0]) // layer["conv"].stride[0] + 1
        if frames is not None:
            mask = torch.arange(x.shape[1], device=x.device) < frames[:, None]
        return self.proj(self.norm(x)), (x.shape[1],), mask


class _Table(nn.Module):
    """A vector a position. It is interpolated for pictures of another size, and cut for other inputs."""

    def __init__(self, width: int, grid: tuple[int, ...], cut: bool) -> None:
        super().__init__()
        self.grid, self.cut = grid, cut
        self.table = nn.Parameter(torch.zeros(math.prod(grid), width), requires_grad=len(grid) == 1)

    def forward(self, x: Tensor, grid: tuple[int, ...], mask: Tensor | None) -> Tensor:
        if grid == self.grid:
            return self.table
        if self.cut:
            if grid[0] > self.grid[0] or grid[1:] != self.grid[1:]:
                raise ValueError(f"an input of {grid} tokens, and the encoder has positions for {self.grid}")
            return self.table[: math.prod(grid)]
        table = self.table.T.reshape(1, -1, *self.grid).float()
        table = F.interpolate(table, size=grid, mode="bicubic", align_corners=False, antialias=True)
        return table[0].flatten(1).T.to(self.table.dtype)


class _Convolved(nn.Module):
    """Positions by a stack of convolutions over the frames, each of which sees zeros where there is padding."""

    def __init__(self, width: int, front: dict[str, Any]) -> None:
        super().__init__()
        kernel, groups = front["position_kernel"], front["position_groups"]
        self.layers = nn.ModuleList()
        for _ in range(front["position_layers"]):
            self.layers.append(nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=groups))

    def forward(self, x: Tensor, grid: tuple[int, ...], mask: Tensor | None) -> Tensor:
        for layer in self.layers:
            if mask is not None:
                x = x.masked_fill(~mask[..., None], 0)
            x = layer(x.transpose(1, 2)).transpose(1, 2)
            x = F.gelu(F.layer_norm(x, x.shape[-1:]))
        return x


class _ALiBi(nn.Module):
    """Attention falls with the distance of two tokens, which extra tokens do not have."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_heads))

    def forward(self, length: int, num_extra: int) -> Tensor:  # [1, H, T, T]
        device, num_heads = self.scale.device, len(self.scale)
        power = 2 ** (num_heads.bit_length() - 1)
        exponents = torch.arange(1, power + 1, device=device) * (8 / power)
        between = torch.arange(num_heads - power, device=device) * (8 / power) + 4 / power
        slopes = torch.exp2(-torch.cat([exponents, between])) * self.scale.float().clamp(min=0)
        position = torch.arange(length, device=device)
        distance = F.pad((position[:, None] - position).abs(), (num_extra, 0, num_extra, 0))
        return -(distance * slopes[:, None, None])[None]


class _Front(nn.Module):
    """All that stands before the blocks; the encoder fills in the prenet."""

    def __init__(self, config: D2vConfig) -> None:
        super().__init__()
        front, width, medium = config.front, config.hidden_size, config.medium
        extractor = {"vision": _Patches, "audio": _Patches, "speech": _Frames, "text": _Words}[medium]
        self.feature_extractor = extractor(width, front)
        self.positions: nn.Module | None = None
        if medium == "speech":
            self.positions = _Convolved(width, front)
        elif medium == "text":
            if front["max_positions"] is not None:
                self.positions = _Table(width, (front["max_positions"],), cut=True)
        else:
            size = front.get("image_size", [front.get("max_frames"), front.get("mel_bins")])
            height, wide = (size, size) if isinstance(size, int) else size
            grid = (height // front["patch_size"], wide // front["patch_size"])
            self.positions = _Table(width, grid, cut=medium == "audio")
        self.attention_bias = _ALiBi(config.num_attention_heads) if front.get("alibi") else None
        self.num_extra, self.cls_token = config.num_extra_tokens, None
        if self.num_extra:
            self.cls_token = nn.Parameter(torch.zeros(self.num_extra, width))
        self.input_norm = nn.LayerNorm(width, eps=config.trunk["eps"])
        self.input_dropout = nn.Dropout(config.hidden_dropout)
        self.prenet = nn.ModuleList()

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Tokens [B, T, D], what is added to the scores of the attention, and [B, T], False where there is padding."""
        x, grid, mask = self.feature_extractor(x, mask)
        if self.positions is not None:
            x = x + self.positions(x, grid, mask)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        bias = None
        if self.attention_bias is not None:
            bias = self.attention_bias(math.prod(grid), self.num_extra)
        if mask is not None:
            mask = F.pad(mask, (self.num_extra, 0), value=True)
            hidden = torch.zeros(mask.shape, device=x.device).masked_fill(~mask, -torch.inf)[:, None, None]
            bias = hidden if bias is None else bias + hidden
        return self.input_dropout(self.input_norm(x)), bias, mask


class D2vBlock(GradientCheckpointingLayer):
    """Attention and a feed-forward network, each followed by residual and norm."""

    def __init__(self, config: D2vConfig, drop_path: float) -> None:
        super().__init__()
        width, eps, self.drop_path = config.hidden_size, config.trunk["eps"], drop_path
        self.num_heads, self.attention_dropout = config.num_attention_heads, config.attention_dropout
        self.attention = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        hidden = int(width * config.trunk["mlp_ratio"])
        inner = nn.Sequential(nn.GELU(), nn.Dropout(config.activation_dropout))
        self.mlp = nn.Sequential(nn.Linear(width, hidden), inner, nn.Linear(hidden, width), self.dropout)

    def forward(self, x: Tensor, bias: Tensor | None, eager: bool) -> tuple[Tensor, Tensor | None]:
        """The tokens, and with ``eager`` the weights of the attention [B, H, T, T]."""
        q, k, v = self.attention["qkv"](x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.attention_dropout if self.training else 0.0
        if bias is not None:
            bias = bias.to(q.dtype)
        weights = None
        if eager:
            scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
            if bias is not None:
                scores = scores + bias
            weights = F.dropout(scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype), dropout)
            attended = weights @ v
        else:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        attended = self.attention["proj"](attended.transpose(1, 2).flatten(2))
        x = self.norm1(x + self._for_some(self.dropout(attended)))
        return self.norm2(x + self._for_some(self.mlp(x))), weights

    def _for_some(self, branch: Tensor) -> Tensor:
        """Stochastic depth."""
        if not self.training or self.drop_path == 0:
            return branch
        stays = torch.rand(len(branch), 1, 1, device=branch.device) < 1 - self.drop_path
        return branch * (stays / (1 - self.drop_path)).to(branch.dtype)


class _Encoder(nn.Module):
    def __init__(self, config: D2vConfig) -> None:
        super().__init__()
        self.layer_drop, self.num_prenet = config.layerdrop, config.front.get("prenet_depth", 0)
        self.front = _Front(config)
        self.trunk: Any = nn.ModuleDict({"blocks": nn.ModuleList()})
        rates = torch.linspace(0, config.drop_path_rate, self.num_prenet + config.num_hidden_layers, device="cpu")
        for number, rate in enumerate(rates.tolist()):
            stack: Any = self.front.prenet if number < self.num_prenet else self.trunk["blocks"]
            stack.append(D2vBlock(config, rate))

    def forward(self, x: Tensor, mask: Tensor | None, eager: bool) -> tuple[tuple, tuple, Tensor | None]:
        """What the first block reads and where each ends, weights of the attention in each, and the mask of tokens."""
        x, bias, mask = self.front(x, mask)
        states, attentions = [x], []
        for block in [*self.front.prenet, *self.trunk["blocks"]]:
            weights = None
            if not self.training or torch.rand((), device="cpu") >= self.layer_drop:
                x, weights = block(x, bias, eager)
            states.append(x)
            attentions.append(weights)
        return tuple(states[self.num_prenet :]), tuple(attentions[self.num_prenet :]), mask


class _Head(nn.Module):
    """``ClassifierHead``, ``TanhHead`` or ``CTCHead`` of d2v: the stored one, or a new one of another size."""

    def __init__(self, config: D2vConfig, outputs: int, ctc: bool) -> None:
        super().__init__()
        stored: dict[str, Any] = config.head or {"recipe": {"init_args": {}}}
        settings = stored["recipe"]["init_args"]
        if settings.get("num_symbols" if ctc else "num_classes") != outputs:
            stored, settings, config.head = {}, {}, None
        self.pool, width = stored.get("pool", "mean"), config.hidden_size
        self.dropout = nn.Dropout(settings.get("dropout", config.hidden_dropout))
        self.norm = nn.LayerNorm(width, eps=settings["eps"]) if settings.get("norm") else nn.Identity()
        self.hidden = None
        if stored and stored["recipe"]["class_path"].endswith("TanhHead"):
            self.hidden = nn.Linear(width, width)
        self.proj = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.norm(x))
        if self.hidden is not None:
            x = self.dropout(self.hidden(x).tanh())
        return self.proj(x)


class D2vModel(PreTrainedModel):
    """The encoder alone, and what models with a head share."""

    config_class = D2vConfig
    base_model_prefix = "student"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["D2vBlock"]
    _keys_to_ignore_on_load_unexpected = [r"^head\."]

    def __init__(self, config: D2vConfig) -> None:
        super().__init__(config)
        self.main_input_name = _INPUTS[config.medium]
        self.student = _Encoder(config)
        self.add_head()
        self.post_init()

    def add_head(self) -> None:
        """The encoder alone has none, also where the folder has one."""
        self.config.head = None

    def predict(self, encoded: D2vOutput, labels: Tensor | None) -> Any:
        """The output of the model."""
        return encoded

    def get_input_embeddings(self) -> nn.Module:
        extractor: Any = self.student.front.feature_extractor
        return extractor.embedding if isinstance(extractor, _Words) else extractor.proj

    def freeze_feature_encoder(self) -> None:
        """Train all but the convolutions, patches or embeddings; examples of transformers call it."""
        self.student.front.feature_extractor.requires_grad_(False)

    @can_return_tuple
    def forward(
        self,
        inputs: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        input_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> Any:
        """Encode a batch, and predict.

        Args:
            inputs: What the encoder reads, unless it is given by its name: ``pixel_values`` [B, channels, height,
                width], ``input_values`` [B, samples] or, of spectrograms, [B, frames, bins], ``input_ids`` [B, N].
            attention_mask: At the rate of sound or text: 0 where it is padding.
            labels: Classes [B], or a number for each class [B, classes]; symbols [B, S], padded with -100.
            output_attentions, output_hidden_states: As of all models of transformers.
        """
        given = [x for x in (inputs, pixel_values, input_values, input_ids) if x is not None]
        if len(given) != 1:
            raise ValueError(f"give this model its {self.main_input_name}, once; it was given {len(given)} inputs")
        x = given[0].to(self.dtype) if given[0].is_floating_point() else given[0]
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if attention_mask is not None:
            attention_mask = attention_mask.bool()
        eager = bool(output_attentions) or self.config._attn_implementation == "eager"
        states, attentions, mask = self.student(x, attention_mask, eager)
        extra = self.config.num_extra_tokens
        tokens = states[-1][:, extra:]
        count: Any = tokens.shape[1]
        if mask is not None:
            tokens = tokens.masked_fill(~mask[:, extra:, None], 0)
            count = mask[:, extra:, None].sum(dim=1).clamp(min=1)
        encoded = D2vOutput(
            last_hidden_state=states[-1],
            pooler_output=tokens.sum(dim=1) / count,
            hidden_states=states if output_hidden_states else None,
            attentions=attentions if output_attentions else None,
            attention_mask=mask,
        )
        return self.predict(encoded, labels)


class D2vForClassification(D2vModel):
    """Of pictures, clips or texts, by the mean of their tokens, or of the extra ones (of text: the first)."""

    def add_head(self) -> None:
        self.head = _Head(self.config, self.config.num_labels, ctc=False)

    def predict(self, encoded: D2vOutput, labels: Tensor | None) -> SequenceClassifierOutput:
        features = encoded.pooler_output
        if self.head.pool == "cls":
            features = encoded.last_hidden_state[:, : max(1, self.config.num_extra_tokens)].mean(dim=1)
        logits, loss = self.head(features), None
        if labels is not None:
            loss = ForSequenceClassificationLoss(labels, logits, self.config)
        return SequenceClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)


class D2vForCTC(D2vModel):
    """Symbols of speech, ``config.pad_token_id`` the blank."""

    def add_head(self) -> None:
        self.head = _Head(self.config, self.config.vocab_size, ctc=True)

    def predict(self, encoded: D2vOutput, labels: Tensor | None) -> CausalLMOutput:
        config, extra, loss = self.config, self.config.num_extra_tokens, None
        logits = self.head(encoded.last_hidden_state[:, extra:])
        if labels is not None:
            lengths = torch.full(logits.shape[:1], logits.shape[1], device=logits.device)
            if encoded.attention_mask is not None:
                lengths = encoded.attention_mask[:, extra:].sum(dim=1)
            log_probs, kept = logits.log_softmax(dim=-1, dtype=torch.float32).transpose(0, 1), labels >= 0
            how = {"reduction": config.ctc_loss_reduction, "zero_infinity": config.ctc_zero_infinity}
            loss = F.ctc_loss(log_probs, labels[kept], lengths, kept.sum(dim=1), config.pad_token_id, **how)
        return CausalLMOutput(loss, logits, encoded.hidden_states, encoded.attentions)
