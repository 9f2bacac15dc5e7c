"""What may be changed inside a model while it is traced: one frozen record, applied in the order of the forward pass.

Zero is not nothing: a branch or a register set to zero is a value the network has never seen, and can cost more than
the part is worth. So every part can also be set to its mean over the tokens, or to what another image gave.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor

from vitrail.config import ViTConfig
from vitrail.errors import UnknownName

Fill: TypeAlias = Literal["zero", "mean"] | Tensor  # mean: over the tokens of the same image; a tensor: its values
Head: TypeAlias = tuple[int, int]  # (block, head), counted from 0


@dataclass(frozen=True, eq=False)
class Intervention:
    """Nothing is changed by default. Blocks, heads and patches are counted from 0, patches row by row.

    drop: patches taken out of the sequence, which is what a token's absence means: no block sees its keys.
    replace: patch -> what stands for its embedding, before the position is added (D, or B D).
    order: the patch whose embedding each place gets; a shuffle leaves the positions where they are.
    positions: `off`, or the place whose position each place gets.
    heads: (block, head) -> what stands for the head's output (B T d), before the output projection.
    attention, mlp: block -> what stands for the branch's output (B T D), before the residual sum.
    temperature: block -> what the attention scores are divided by.
    """

    drop: Sequence[int] = ()
    replace: Mapping[int, Fill] = field(default_factory=dict)
    order: Sequence[int] | None = None
    positions: Literal["kept", "off"] | Sequence[int] = "kept"
    heads: Mapping[Head, Fill] = field(default_factory=dict)
    attention: Mapping[int, Fill] = field(default_factory=dict)
    mlp: Mapping[int, Fill] = field(default_factory=dict)
    temperature: Mapping[int, float] = field(default_factory=dict)

    @property
    def changes_embedding(self) -> bool:
        """Whether the tokens that enter the first block are other ones."""
        return bool(self.drop or self.replace or self.order is not None or self.positions != "kept")

    def first_block(self, depth: int) -> int:
        """The first block that computes something else; `depth` where none does."""
        if self.changes_embedding:
            return 0
        changed = [block for block, _ in self.heads] + [*self.attention, *self.mlp, *self.temperature]
        return min(changed, default=depth)

    def check(self, config: ViTConfig) -> None:
        """Raises UnknownName for a patch, block or head that the model does not have; ValueError where an order is not
        one of all patches, patches are dropped twice or a temperature is not positive."""
        patches, blocks = range(config.patches), range(config.depth)
        _known("patch", [*self.drop, *self.replace], patches)
        _known("block", [*self.attention, *self.mlp, *self.temperature, *(block for block, _ in self.heads)], blocks)
        _known("head", [head for _, head in self.heads], range(config.heads))
        for name in ("order", "positions"):
            given = getattr(self, name)
            if not (given is None or isinstance(given, str)) and sorted(given) != [*patches]:
                raise ValueError(f"{name} must name each of the {len(patches)} patches once")
        if len(set(self.drop)) != len(self.drop) or len(self.drop) == len(patches):
            raise ValueError("drop must name different patches, and leave one")
        if any(not value > 0 for value in self.temperature.values()):
            raise ValueError(f"a temperature must be positive: {dict(self.temperature)}")


def _known(kind: str, found: Iterable[int], choices: range) -> None:
    for number in found:
        if number not in choices:
            raise UnknownName(kind, str(number), [str(i) for i in choices])


def fill(value: Float[Tensor, "B T F"], by: Fill) -> Float[Tensor, "B T F"]:
    """What stands for `value`: zeros, its mean over the tokens, or the values of `by`."""
    if isinstance(by, Tensor):
        return by.to(value).expand_as(value)
    return value.new_zeros(()).expand_as(value) if by == "zero" else value.mean(dim=1, keepdim=True).expand_as(value)
