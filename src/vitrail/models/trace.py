"""Every named intermediate of one forward pass, computed from the model's own layers, without hooks.

Attention is written out where its weights are kept, since the fused kernel keeps none; tests hold the logits to the
fused path's. The same pass carries interventions out, and can leave its tensors in autograd's graph.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.errors import ConfigError, UnknownName
from vitrail.models.intervention import Intervention, fill
from vitrail.models.layers import Rotation
from vitrail.models.resnet import ResNet
from vitrail.models.vit import EncoderBlock, ViT
from vitrail.types import Images, Logits, Tokens

PARTS = (
    "norm1",
    "queries",
    "keys",
    "values",
    "attention",
    "heads",
    "after_attention",
    "norm2",
    "mlp_hidden",
    "after_mlp",
)
NOTHING = Intervention()


@dataclass(frozen=True)
class BlockTrace:
    """One encoder block. `attention[b, h, t, s]` is how much token t takes from token s; its rows sum to one.

    ValueError for a part that the trace was not asked to keep.
    """

    kept: Mapping[str, Tensor] = field(repr=False)

    def part(self, name: str) -> Tensor:
        """A part by name."""
        if name not in self.kept:
            raise ValueError(f"the trace kept {', '.join(self.kept)}, not {name}: ask for it with parts=")
        return self.kept[name]

    @property
    def norm1(self) -> Tokens:
        """What the attention reads."""
        return self.part("norm1")

    @property
    def queries(self) -> Float[Tensor, "B h T d"]:
        return self.part("queries")

    @property
    def keys(self) -> Float[Tensor, "B h T d"]:
        return self.part("keys")

    @property
    def values(self) -> Float[Tensor, "B h T d"]:
        return self.part("values")

    @property
    def attention(self) -> Float[Tensor, "B h T T"]:
        """softmax(q k / sqrt d)."""
        return self.part("attention")

    @property
    def heads(self) -> Float[Tensor, "B h T d"]:
        """What each head gathers, before the output projection."""
        return self.part("heads")

    @property
    def after_attention(self) -> Tokens:
        """The residual stream of equation 2."""
        return self.part("after_attention")

    @property
    def norm2(self) -> Tokens:
        """What the MLP reads."""
        return self.part("norm2")

    @property
    def mlp_hidden(self) -> Float[Tensor, "B T M"]:
        """After the GELU, or the gate."""
        return self.part("mlp_hidden")

    @property
    def after_mlp(self) -> Tokens:
        """The residual stream of equation 3."""
        return self.part("after_mlp")


@dataclass(frozen=True)
class Trace:
    """A forward pass from pixels to logits. `places` are the patches that are in the sequence, row by row."""

    stem: Float[Tensor, "B C U V"] | None  # a hybrid's feature map, which its patches are cut from; else None
    patches: Float[Tensor, "B P D"]  # linearly embedded, before positions and prefix
    embedded: Tokens  # after both, equation 1
    blocks: tuple[BlockTrace, ...]
    tokens: Tokens  # all tokens after the final norm
    pool_attention: Float[Tensor, "B h 1 S"] | None  # of a head that pools by attention (`map`): to each patch
    pooled: Float[Tensor, "B ..."]  # what the pool makes of the tokens, equation 4: the class token, a mean, ...
    pre_logits: Float[Tensor, "B ..."]  # what the linear head reads: `pooled`, behind the tanh layer where there is one
    logits: Logits
    places: Int[Tensor, " S"]
    prefix: int  # tokens before the patches

    @property
    def class_token(self) -> Tensor:
        """What the head sees, by its name in a model with a class-token head."""
        return self.pooled


def trace(
    model: ViT | ResNet,
    images: Images,
    *,
    parts: Collection[str] = PARTS,
    change: Intervention = NOTHING,
    clean: Trace | None = None,
    gradients: bool = False,
) -> tuple[Logits, Trace]:
    """Logits (B K) and the Trace of `images` (B C H W), with dropout and stochastic depth off.

    parts: which parts of the blocks are kept; without `attention` the fused kernel runs, so memory does not grow with
    the square of the tokens. change: what is changed on the way. clean: the trace of the same images without a change
    and with `after_mlp` kept: blocks before the first changed one are taken from it. gradients: stay in autograd's
    graph, so that torch.autograd.grad reaches every part.
    Raises ConfigError for a model without tokens, UnknownName for a part, patch, block or head that does not exist.
    """
    if isinstance(model, ResNet):
        raise ConfigError("a ResNet has no tokens to trace: choose a Vision Transformer")
    for name in parts:
        if name not in PARTS:
            raise UnknownName("part of a trace", name, PARTS)
    change.check(model.config)
    training = model.training
    model.eval()
    try:
        with torch.enable_grad() if gradients else torch.no_grad():
            return _trace(model, images, frozenset(parts), change, clean)
    finally:
        model.train(training)


def pooled_at(model: ViT, record: Trace, depth: int) -> Tensor:
    """What the head would see if the network ended behind the embedding (0) or behind block `depth`, counted from 1.

    A head that reads several blocks reads the embedding in place of those before the first.
    """
    stream = [record.embedded] * model.config.pool_blocks + [b.after_mlp for b in record.blocks[:depth]]
    return model.pool(stream[-1], stream[:-1])


def _trace(
    model: ViT, images: Images, parts: frozenset[str], change: Intervention, clean: Trace | None
) -> tuple[Logits, Trace]:
    first = change.first_block(model.config.depth) if clean is not None else 0
    places = _places(model, images, change)
    blocks: list[BlockTrace] = []
    if clean is not None and first > 0:
        stem, patches, embedded, blocks = clean.stem, clean.patches, clean.embedded, [*clean.blocks[:first]]
        x = blocks[-1].after_mlp
    else:
        stem, patches, embedded = _embed(model, images, change, places)
        x = embedded
    turn = _rotation(model, images, change, places)
    stream = [] if model.config.pool_blocks == 1 else [b.after_mlp for b in blocks]
    for index, block in enumerate(model.blocks[first:], first):
        record = _block(block, x, turn, parts | {"after_mlp"}, index, change)
        x = record["after_mlp"]
        stream.append(x)
        blocks.append(BlockTrace({name: record[name] for name in PARTS if name in parts}))
    looks, pooled = _pool(model, x, stream[:-1])
    read = pooled if model.pre_logits is None else torch.tanh(model.pre_logits(pooled))
    logits = model.classify(pooled)
    prefix = model.config.prefix
    return logits, Trace(
        stem, patches, embedded, tuple(blocks), model.norm(x), looks, pooled, read, logits, places, prefix
    )


def _pool(model: ViT, x: Tokens, earlier: list[Tensor]) -> tuple[Tensor | None, Tensor]:
    """The pooled tokens, and, where attention pools them, its weights, through which they are computed."""
    pool, config = model.attention_pool, model.config
    if pool is None:
        return None, model.pool(x, earlier)
    q, k, v = pool.project((x if config.norm_after_pool else model.norm(x))[:, config.prefix :])
    looks = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1)  # B h 1 S
    pooled = pool.finish(pool.attention.merge(looks @ v))
    return looks, model.norm(pooled) if config.norm_after_pool else pooled


def _places(model: ViT, images: Images, change: Intervention) -> Int[Tensor, " S"]:
    left_out = set(change.drop)
    return torch.tensor([p for p in range(model.config.patches) if p not in left_out], device=images.device)


def _embed(
    model: ViT, images: Images, change: Intervention, places: Int[Tensor, " S"]
) -> tuple[Tensor | None, Float[Tensor, "B P D"], Float[Tensor, "B T D"]]:
    """The stem's feature map, the embedded patches, and the tokens that enter the first block, as the intervention has
    them."""
    stem = None if model.stem is None else model.stem.features(images)
    patches = x = model.patches(images) if stem is None else model.patch_embedding(stem).flatten(2).transpose(1, 2)
    if change.replace:
        x = x.clone()
        for place, by in change.replace.items():
            row = patches.mean(dim=1) if isinstance(by, str) and by == "mean" else patches.new_zeros(())
            x[:, place] = by.to(x) if isinstance(by, Tensor) else row
    if change.order is not None:
        x = x[:, list(change.order)]
    positions, rows = model.positions(x), model.config.position_rows
    if positions is not None and change.positions == "off":
        positions = torch.zeros_like(positions)
    elif positions is not None and change.positions != "kept":
        order = [*range(rows), *(rows + int(i) for i in change.positions)]
        positions = positions[:, order]
    x = model.join(x, positions)
    if change.drop:
        prefix = model.config.prefix
        x = torch.cat([x[:, :prefix], x[:, prefix:][:, places]], dim=1)
    return stem, patches, x


def _rotation(model: ViT, images: Images, change: Intervention, places: Int[Tensor, " S"]) -> Rotation | None:
    """What turns queries and keys (rotary positions), of the tokens that are left."""
    turn = model.rotation(images)
    if turn is None or not change.changes_embedding:
        return turn
    prefix = model.config.prefix
    cos, sin = turn
    if change.positions == "off":
        cos, sin = torch.ones_like(cos), torch.zeros_like(sin)
    elif change.positions != "kept":
        order = torch.tensor([*range(prefix), *(prefix + int(i) for i in change.positions)], device=cos.device)
        cos, sin = cos[order], sin[order]
    rows = torch.cat([torch.arange(prefix, device=places.device), prefix + places])
    return cos[rows], sin[rows]


def _block(
    block: EncoderBlock, x: Tokens, turn: Rotation | None, parts: frozenset[str], index: int, change: Intervention
) -> dict[str, Tensor]:
    """The parts of one block that are asked for, and what they follow from."""
    kept: dict[str, Tensor] = {}
    normed = block.norm1(x)
    q, k, v = block.attention.project(normed, rotation=turn)
    scale = q.shape[-1] ** -0.5 / change.temperature.get(index, 1.0)
    if "attention" in parts:
        kept["attention"] = torch.softmax(q @ k.transpose(-2, -1) * scale, dim=-1)
        heads = kept["attention"] @ v
    else:
        heads = F.scaled_dot_product_attention(q, k, v, scale=scale)
    for (where, head), by in change.heads.items():
        if where == index:
            heads = heads.clone()
            heads[:, head] = fill(heads[:, head].clone(), by)
    mixed = block.scale1(block.attention.merge(heads))
    if index in change.attention:
        mixed = fill(mixed, change.attention[index])
    after_attention = x + mixed
    read = block.norm2(after_attention)
    hidden = block.mlp.hidden(read)
    out = block.scale2(block.mlp.fc2(hidden))
    if index in change.mlp:
        out = fill(out, change.mlp[index])
    kept |= {"norm1": normed, "queries": q, "keys": k, "values": v, "heads": heads, "after_attention": after_attention}
    return kept | {"norm2": read, "mlp_hidden": hidden, "after_mlp": after_attention + out}
