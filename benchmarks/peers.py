"""What `d2v bench --peers` times beside a recipe: the same step, built by hand from what pip gives.

Each peer has the shapes of the recipe's module, reads its batches and masks, computes the same loss and trains with
the recipe's optimizer settings in its precision. Nothing is crippled: attention is torch's SDPA, AdamW is fused, the
clipping and the average of the teacher take all tensors at once, and predictions are made at masked positions alone.

- 1.0: `Data2VecVisionModel`, `Data2VecAudioModel` and `Data2VecTextModel` of transformers, as student and as teacher.
- 2.0: Transformer blocks as in timm and MAE, with SDPA; the feature extractor and the convolutional positions of speech
  are those of transformers; the decoder is torch's grouped convolutions.
- `official_like` (2.0 alone): the same in the way of the official code, from facts about it: attention by hand with an
  fp32 softmax, AdamW and the average tensor by tensor. It is no copy of that code and not a measurement of it.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    Data2VecTextConfig,
    Data2VecTextModel,
    Data2VecVisionConfig,
    Data2VecVisionModel,
)
from transformers.models.data2vec import modeling_data2vec_audio

from d2v.errors import UserError
from d2v.types import Batch, Mask


def make_peers(module: Any, device: torch.device) -> dict[str, Callable[[Batch, Mask], None]]:
    """Steps of peers by name.

    Args:
        module: A `Data2VecModule` in training; its optimizer, clipping and precision are taken over.
        device: Where it is.

    Raises:
        UserError: It has settings that no peer here has.
        AssertionError: A peer has not as many parameters as the recipe, up to 2%.
    """
    method = module.method
    student, task = method.student, method.task
    front = student.front
    kind = {"VisionFrontEnd": "vision", "SpeechFrontEnd": "speech", "TextFrontEnd": "text"}.get(type(front).__name__)
    if kind is None or "16-mixed" in module.trainer.precision.replace("bf16", ""):
        raise UserError(f"--peers: there is none for {type(front).__name__} at precision {module.trainer.precision}")
    if type(front.masked_input).__name__ == "DropMasked":
        made = {"torch blocks": Peer2(kind, student, task, False), "official_like": Peer2(kind, student, task, True)}
    else:
        made = {"transformers": {"vision": Vision1, "speech": Speech1, "text": Text1}[kind](student, task)}
    steps = {}
    for name, peer in made.items():
        ours = _trained([*student.parameters(), *task.parameters()])
        theirs = _trained([*peer.parameters()])
        assert abs(theirs / ours - 1) < 0.02, f"{name} trains {theirs:,} parameters, and the recipe {ours:,}"
        steps[name] = _step(peer.to(device).train(), module, plain=name == "official_like")
    return steps


def _trained(parameters: list[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)


def _step(peer: Any, module: Any, plain: bool) -> Callable[[Batch, Mask], None]:
    """Forward, backward, clipping, AdamW and the teacher's average, on one batch."""
    trainer = module.trainer
    group = trainer.optimizers[0].param_groups[0]
    settings = {"fused": True}
    if plain:
        settings = {"fused": False, "foreach": False}
    parameters = [parameter for parameter in peer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=1e-6, betas=group["betas"], eps=group["eps"], weight_decay=group["weight_decay"], **settings
    )
    pairs = peer.averaged()
    dtypes = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16}
    dtype = dtypes.get(trainer.precision)

    def step(batch: Batch, mask: Mask) -> None:
        with torch.autocast(batch.inputs.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            loss = peer.loss(batch, mask)
        loss.backward()
        if trainer.gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(parameters, trainer.gradient_clip_val, foreach=not plain)
        else:  # both log it
            torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            if plain:
                for old, new in pairs:
                    old.mul_(0.999).add_(new, alpha=0.001)
            else:
                torch._foreach_lerp_([old for old, _ in pairs], [new for _, new in pairs], 0.001)

    return step


class Peer(nn.Module):
    """Targets and losses, which are the same in all of them.

    The teacher is kept in a list, so that it is none of the modules that are trained.
    """

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.targets_of, self.loss_of, self.cls_loss_of = task.targets, task.loss, task.cls_loss
        self.num_masks = task.num_masks
        self.teachers: list[nn.Module] = []

    def follow(self, student: nn.Module, shared: nn.Module | None = None) -> nn.Module:
        """A teacher of the student, which borrows the weights of a part of it."""
        memo = {} if shared is None else {id(each): each for each in shared.parameters()}
        teacher = copy.deepcopy(student, memo).eval()
        self.teachers = [teacher]
        self._student = [student]
        return teacher

    def _apply(self, fn: Any, *args: Any) -> Any:
        for teacher in self.teachers:
            teacher._apply(fn, *args)
        return super()._apply(fn, *args)

    def averaged(self) -> list[tuple[Tensor, Tensor]]:
        pairs = []
        for old, new in zip(self.teachers[0].parameters(), self._student[0].parameters(), strict=True):
            if old is not new and new.requires_grad:
                pairs.append((old, new.detach()))
        return pairs

    def targets(self, layers: list[Tensor]) -> Tensor:
        """[B, N, D]: the mean of the top K, each normalised, normalised."""
        made = self.targets_of
        total = 0
        for layer in layers[-made.top_k :]:
            total = total + _normalised(layer.float(), made.layer_norm)
        return _normalised(total / made.top_k, made.mean_norm)

    def regression(self, predictions: Tensor, targets: Tensor) -> Tensor:
        made, width = self.loss_of, predictions.shape[-1]
        if made.kind == "mse":
            loss = F.mse_loss(predictions.float(), targets)
        else:
            loss = F.smooth_l1_loss(predictions.float(), targets, beta=made.beta)
        return loss * {"mean": 1, "sum": width, "scaled_sum": width**0.5}[made.reduction]


def _normalised(x: Tensor, norm: str | None) -> Tensor:
    if norm == "layer":
        return F.layer_norm(x, x.shape[-1:])
    if norm == "instance":
        return F.instance_norm(x.transpose(1, 2)).transpose(1, 2)
    return x


def _pick(x: Tensor, index: Tensor) -> Tensor:
    """Tokens [R, K, D] of each row, or of the sample that several rows share."""
    if len(x) < len(index):
        x = x.repeat_interleave(len(index) // len(x), dim=0)
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


class _Kept:
    """What a forward hook saw, layer by layer."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.outputs: list[Tensor] = []
        for module in modules:
            module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self.outputs.append(output)

    def take(self) -> list[Tensor]:
        outputs, self.outputs = self.outputs, []
        return outputs


def _sizes(trunk: Any) -> dict[str, Any]:
    """Of a configuration of transformers."""
    block = trunk.blocks[0]
    return {
        "hidden_size": trunk.width,
        "num_hidden_layers": trunk.depth,
        "num_attention_heads": trunk.num_heads,
        "intermediate_size": block.mlp[0].out_features,
        "layer_norm_eps": trunk.eps,
        "attn_implementation": "sdpa",
    }


class Vision1(Peer):
    """1.0 vision."""

    def __init__(self, student: Any, task: Any) -> None:
        super().__init__(task)
        trunk, front = student.trunk, student.front
        block = trunk.blocks[0]
        config = Data2VecVisionConfig(
            **_sizes(trunk), image_size=front.image_size[0], patch_size=front.patch_size, use_mask_token=True,
            use_shared_relative_position_bias=True, use_mean_pooling=False, drop_path_rate=trunk.drop_path,
            layer_scale_init_value=float(block.scale1.gamma.detach()[0]), hidden_dropout_prob=trunk.dropout,
            attention_probs_dropout_prob=block.attention.dropout,
        )  # fmt: skip
        self.model = Data2VecVisionModel(config)
        self.follow(self.model)
        self.head = nn.Linear(trunk.width, trunk.width)

    def loss(self, batch: Batch, mask: Mask) -> Tensor:
        with torch.no_grad():
            ends = self.teachers[0](batch.inputs, output_hidden_states=True).hidden_states[1:]
            targets = self.targets([end[:, 1:] for end in ends])
        tokens = self.model(batch.inputs, bool_masked_pos=mask.masked).last_hidden_state[:, 1:]
        return self.regression(self.head(_pick(tokens, mask.masked_index)), _pick(targets, mask.masked_index))


def _audio_config(student: Any) -> Data2VecAudioConfig:
    trunk, front = student.trunk, student.front
    convolutions = [layer.conv for layer in front.feature_extractor.layers]
    return Data2VecAudioConfig(
        **_sizes(trunk), conv_dim=[conv.out_channels for conv in convolutions],
        conv_kernel=[conv.kernel_size[0] for conv in convolutions],
        conv_stride=[conv.stride[0] for conv in convolutions],
        num_conv_pos_embeddings=len(front.positions.layers),
        conv_pos_kernel_size=front.positions.layers[0].weight.shape[2],
        num_conv_pos_embedding_groups=front.positions.layers[0].groups, hidden_dropout=trunk.dropout,
        attention_dropout=trunk.blocks[0].attention.dropout, activation_dropout=0.0, feat_proj_dropout=0.0,
        layerdrop=trunk.layer_drop, mask_time_prob=0.65,
    )  # fmt: skip


class Speech1(Peer):
    """1.0 speech. As in the recipe, the teacher reads what the student's feature extractor gives."""

    def __init__(self, student: Any, task: Any) -> None:
        super().__init__(task)
        self.model = Data2VecAudioModel(_audio_config(student))
        teacher = self.follow(self.model.encoder)
        self.kept = _Kept([layer.feed_forward for layer in teacher.layers])
        self.head = nn.Linear(student.width, student.width)

    def loss(self, batch: Batch, mask: Mask) -> Tensor:
        model = self.model
        features = model.feature_projection(model.feature_extractor(batch.inputs).transpose(1, 2))[0]
        with torch.no_grad():
            self.teachers[0](features.detach())
            targets = self.targets(self.kept.take())
        tokens = model.encoder(model._mask_hidden_states(features, mask.masked)).last_hidden_state
        return self.regression(self.head(_pick(tokens, mask.masked_index)), _pick(targets, mask.masked_index))


class Text1(Peer):
    """1.0 text. The teacher borrows the embeddings."""

    def __init__(self, student: Any, task: Any) -> None:
        super().__init__(task)
        trunk, front = student.trunk, student.front
        self.mask_id = front.masked_input.mask_id
        config = Data2VecTextConfig(
            **_sizes(trunk), vocab_size=front.vocab_size, max_position_embeddings=front.max_positions + 2,
            type_vocab_size=1, pad_token_id=1, hidden_dropout_prob=trunk.dropout,
            attention_probs_dropout_prob=trunk.blocks[0].attention.dropout,
        )  # fmt: skip
        self.model = Data2VecTextModel(config, add_pooling_layer=False)
        teacher = self.follow(self.model, self.model.embeddings)
        self.kept = _Kept([layer.output.dense for layer in teacher.encoder.layer])
        width = trunk.width
        self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def loss(self, batch: Batch, mask: Mask) -> Tensor:
        with torch.no_grad():
            self.teachers[0](input_ids=batch.inputs)
            targets = self.targets(self.kept.take())
        masked = torch.where(mask.masked, self.mask_id, batch.inputs)
        tokens = self.model(input_ids=masked).last_hidden_state
        return self.regression(self.head(_pick(tokens, mask.masked_index)), _pick(targets, mask.masked_index))


class Block(nn.Module):
    """Post-norm, as in timm; gives its end and its feed-forward output."""

    def __init__(self, like: Any, plain: bool) -> None:
        super().__init__()
        width, hidden = like.mlp[0].in_features, like.mlp[0].out_features
        self.heads, self.plain = like.attention.num_heads, plain
        self.attention_dropout, self.dropout = like.attention.dropout, nn.Dropout(like.dropout.p)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=like.norm1.eps), nn.LayerNorm(width, eps=like.norm2.eps)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width), nn.Dropout(like.dropout.p)
        )

    def forward(self, x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        rows, length, width = x.shape
        q, k, v = self.qkv(x).reshape(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.attention_dropout if self.training else 0.0
        if self.plain:
            scores = q * (width // self.heads) ** -0.5 @ k.transpose(-2, -1)
            if bias is not None:
                scores = scores + bias
            mixed = F.dropout(scores.softmax(-1, dtype=torch.float32).to(v.dtype), dropout) @ v
        else:
            if bias is not None:
                bias = bias.to(q.dtype)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        x = self.norm1(x + self.dropout(self.proj(mixed.transpose(1, 2).reshape(rows, length, width))))
        ffn = self.mlp(x)
        return self.norm2(x + ffn), ffn


class Encoder2(nn.Module):
    """Blocks with what stands before them, for a whole input or for the tokens that a mask leaves."""

    def __init__(self, kind: str, student: Any, plain: bool) -> None:
        super().__init__()
        front, trunk = student.front, student.trunk
        self.kind, self.alibi, width = kind, type(front.attention_bias).__name__ == "ALiBi", student.width
        self.layer_drop, self.skip = trunk.layer_drop, len(front.prenet)
        self.blocks = nn.ModuleList(Block(like, plain) for like in [*front.prenet, *trunk.blocks])
        self.norm, self.dropout = nn.LayerNorm(width, eps=trunk.eps), nn.Dropout(trunk.dropout)
        self.cls: Tensor | None = None
        if kind == "vision":
            self.positions = nn.Parameter(torch.randn(1, math.prod(front.positions.grid), width), requires_grad=False)
            self.cls = nn.Parameter(torch.zeros(1, 1, width))
        elif kind == "speech":
            self.positions = modeling_data2vec_audio.Data2VecAudioPositionalConvEmbedding(_audio_config(student))
        elif front.max_positions is not None:
            self.positions = nn.Parameter(torch.randn(1, front.max_positions, width) * 0.02)
        else:
            self.positions = None
        if self.alibi:
            heads = trunk.num_heads
            self.register_buffer("slopes", 2.0 ** (-8 * torch.arange(1, heads + 1) / heads))
            self.scale = nn.Parameter(torch.ones(heads))

    def forward(self, tokens: Tensor, mask: Mask | None = None) -> tuple[Tensor, list[Tensor]]:
        x = tokens
        if self.kind == "speech":
            if mask is not None:
                x = x.repeat_interleave(mask.num_masks, dim=0) * ~mask.masked[..., None]
            x = x + self.positions(x)
        elif self.positions is not None:
            x = x + self.positions[:, : x.shape[1]]
        places = torch.arange(x.shape[1], device=x.device)[None]
        if mask is not None:
            places = mask.visible_index
            x = _pick(x, places)
        bias = None
        if self.alibi:
            distance = (places[:, :, None] - places[:, None, :]).abs()
            bias = -distance[:, None] * (self.slopes * self.scale.clamp(min=0))[:, None, None]
        if self.cls is not None:
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)
        x = self.dropout(self.norm(x))
        outputs = []
        for block in self.blocks:
            if self.training and self.layer_drop and torch.rand(()) < self.layer_drop:
                continue
            x, ffn = block(x, bias)
            outputs.append(ffn)
        return x, outputs[self.skip :]


class Peer2(Peer):
    """2.0, of any of the three media."""

    def __init__(self, kind: str, student: Any, task: Any, plain: bool) -> None:
        super().__init__(task)
        front = student.front
        self.kind, self.plain, width = kind, plain, student.width
        if kind == "vision":
            self.extractor: Any = nn.Conv2d(3, width, front.patch_size, front.patch_size)
        elif kind == "text":
            self.extractor = nn.Embedding(front.vocab_size, width)
        else:
            config = _audio_config(student)
            self.extractor = modeling_data2vec_audio.Data2VecAudioFeatureEncoder(config)
            self.projection = modeling_data2vec_audio.Data2VecAudioFeatureProjection(config)
        self.encoder = Encoder2(kind, student, plain)
        head = task.head
        self.mask_noise, self.residual = head.mask_noise, head.residual
        self.input_dropout = nn.Dropout(head.input_dropout.p)
        layers = []
        for like in head.layers:
            channels, _, kernel, *_ = like.weight.shape
            of_group = (nn.Conv1d, nn.Conv2d)[like.weight.ndim - 3]
            inputs = like.weight.shape[1] * like.groups
            layers.append(of_group(inputs, channels, kernel, padding=kernel // 2, groups=like.groups))
        self.decoder, self.proj = nn.ModuleList(layers), copy.deepcopy(head.proj)
        self.student = nn.ModuleDict({"encoder": self.encoder})
        if kind == "vision":
            self.student["extractor"] = self.extractor
        self.follow(self.student)

    def extract(self, extractor: Any, inputs: Tensor) -> Tensor:
        if self.kind == "vision":
            return extractor(inputs).flatten(2).transpose(1, 2)
        if self.kind == "text":
            return extractor(inputs)
        return self.projection(extractor(inputs).transpose(1, 2))[0]

    def loss(self, batch: Batch, mask: Mask) -> Tensor:
        features = self.extract(self.extractor, batch.inputs)
        teacher: Any = self.teachers[0]
        num_cls = int(self.encoder.cls is not None)
        with torch.no_grad():
            seen = features.detach()
            if "extractor" in teacher:
                seen = self.extract(teacher["extractor"], batch.inputs)
            _, outputs = teacher["encoder"](seen)
            targets = self.targets([each[:, num_cls:] for each in outputs])
        context, _ = self.encoder(features, mask)
        x = self.input_dropout(context[:, num_cls:])
        noise = torch.randn(*mask.masked_index.shape, x.shape[-1], device=x.device, dtype=x.dtype) * self.mask_noise
        x = _pick(torch.cat([x, noise], dim=1), mask.restore_index).transpose(1, 2)  # [R, D, N]
        side = math.isqrt(x.shape[-1])
        grid = (side, side) if self.kind == "vision" else x.shape[2:]
        x = x.unflatten(2, grid)
        for layer in self.decoder:
            y = layer(x)
            y = F.gelu(F.layer_norm(y.movedim(1, -1), y.shape[1:2]).movedim(-1, 1))
            x = x + y if self.residual and x.shape == y.shape else y
        x = x.flatten(2).transpose(1, 2)
        if self.plain:
            predictions = _pick(self.proj(x), mask.masked_index)
        else:
            predictions = self.proj(_pick(x, mask.masked_index))
        loss = self.regression(predictions, _pick(targets, mask.masked_index))
        if self.cls_loss_of is not None:
            mean = targets.mean(dim=1).repeat_interleave(self.num_masks, dim=0)
            loss = loss + 0.01 * F.mse_loss(context[:, 0].float(), mean)
        return loss
