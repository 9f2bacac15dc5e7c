"""The identities that interventions must obey, on every kind of architecture."""

import pytest
import torch
from torch import Tensor

from architectures import KINDS, gap, make
from vitrail.config import ResNetConfig
from vitrail.errors import ConfigError, UnknownName
from vitrail.models.intervention import Intervention
from vitrail.models.resnet import ResNet
from vitrail.models.trace import PARTS, trace
from vitrail.models.vit import ViT


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_change_the_logits_are_the_forward_s(kind: str) -> None:
    model, x = make(kind)
    assert gap(trace(model, x)[0], model(x)) < 1e-12
    assert gap(trace(model, x, parts=())[0], model(x)) < 1e-12  # on the fused kernel


@pytest.mark.parametrize("kind", KINDS)
def test_without_positions_the_order_of_the_patches_does_not_matter(kind: str) -> None:
    model, x = make(kind)
    order = torch.randperm(model.config.patches).tolist()
    plain = trace(model, x, change=Intervention(positions="off"))[0]
    assert gap(trace(model, x, change=Intervention(positions="off", order=order))[0], plain) < 1e-10
    with_positions = trace(model, x, change=Intervention(order=order))[0]
    assert gap(with_positions, model(x)) > 1e-4
    # moving the positions along with the patches only renames the places
    assert gap(trace(model, x, change=Intervention(order=order, positions=order))[0], model(x)) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_patches_is_masking_their_keys_in_every_block(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = make(kind)
    dropped = [0, 5, model.config.patches - 1]
    found, record = trace(model, x, change=Intervention(drop=dropped))
    kept = [p for p in range(model.config.patches) if p not in dropped]
    assert record.places.tolist() == kept
    assert record.embedded.shape[1] == model.config.prefix + len(kept)
    masked = _masked(model, x, dropped, range(model.config.depth))
    if model.config.pool == "token":  # the others also pool over the patches that are left
        assert gap(found, model.classify(model.pool(masked))) < 1e-10
        first_only = _masked(model, x, dropped, range(1))
        assert gap(found, model.classify(model.pool(first_only))) > 1e-4  # they leak back in
    rows = [*range(model.config.prefix), *(model.config.prefix + p for p in kept)]
    assert gap(record.tokens, model.norm(masked)[:, rows]) < 1e-10


def _masked(model: ViT, images: Tensor, dropped: list[int], blocks: range) -> Tensor:
    """The last block's tokens where nobody looks at the dropped patches in these blocks."""
    x, turn = model.embed(images), model.rotation(images)
    mask = torch.zeros(x.shape[1], dtype=x.dtype)
    mask[[model.config.prefix + p for p in dropped]] = -torch.inf
    for index, block in enumerate(model.blocks):
        q, k, v = block.attention.project(block.norm1(x), rotation=turn)
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5 + (mask if index in blocks else 0)
        x = x + block.scale1(block.attention.merge(scores.softmax(-1) @ v))
        x = x + block.scale2(block.mlp(block.norm2(x)))
    return x


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_at_zero_is_its_slice_of_the_output_projection_subtracted(kind: str) -> None:
    model, x = make(kind)
    _, clean = trace(model, x)
    _, record = trace(model, x, change=Intervention(heads={(1, 2): "zero"}))
    block, d = model.blocks[1], model.config.width // model.config.heads
    part = clean.blocks[1].heads[:, 2] @ block.attention.out.weight[:, 2 * d : 3 * d].T
    expected = clean.blocks[1].after_attention - block.scale1(part)
    assert gap(record.blocks[1].after_attention, expected) < 1e-10
    assert gap(record.blocks[1].after_mlp, expected + block.scale2(block.mlp(block.norm2(expected)))) < 1e-10


CHANGES = {
    "head": Intervention(heads={(2, 0): "mean"}),
    "attention": Intervention(attention={1: "zero"}),
    "mlp": Intervention(mlp={1: "mean"}),
    "temperature": Intervention(temperature={2: 0.5}),
    "drop": Intervention(drop=[3]),
    "replace": Intervention(replace={2: "zero", 4: "mean"}),
    "nothing": Intervention(),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("kind", ["token", "rotary, registers", "map", "hybrid"])
def test_what_comes_before_the_change_may_be_taken_from_the_clean_trace(kind: str, name: str) -> None:
    model, x = make(kind)
    change = CHANGES[name]
    full, record = trace(model, x, change=change)
    clean = trace(model, x)[1]
    calls: list[int] = []
    for i, block in enumerate(model.blocks):
        block.norm1.register_forward_hook(lambda _m, _a, _o, i=i: calls.append(i))
    reused, again = trace(model, x, change=change, clean=clean)
    assert torch.equal(reused, full)
    assert calls == [*range(change.first_block(3), 3)]
    for one, other in zip(record.blocks, again.blocks, strict=True):
        for part in PARTS:
            assert torch.equal(one.part(part), other.part(part)), part
    if name != "nothing":
        assert gap(full, model(x)) > 1e-6


def test_with_every_attention_off_the_class_token_never_sees_the_image() -> None:
    model, x = make("token")
    off = Intervention(attention=dict.fromkeys(range(3), "zero"))
    one, two = trace(model, x[:1], change=off)[0], trace(model, x[1:], change=off)[0]
    assert torch.equal(one, two)


def test_another_image_s_part_makes_the_part_its_own() -> None:
    model, x = make("token")
    _, other = trace(model, x[1:])
    gift = Intervention(heads={(0, h): other.blocks[0].heads[:, h] for h in range(3)})
    _, record = trace(model, x[:1], change=gift)
    assert gap(record.blocks[0].heads, other.blocks[0].heads) == 0.0
    whole = Intervention(replace={p: other.patches[:, p] for p in range(24)})  # type: ignore[index]
    assert torch.equal(trace(model, x[:1], change=whole)[0], trace(model, x[1:])[0])


def test_a_low_temperature_sharpens_attention_and_one_changes_nothing() -> None:
    model, x = make("token")
    _, clean = trace(model, x)
    _, sharp = trace(model, x, change=Intervention(temperature={0: 0.25}))
    _, same = trace(model, x, change=Intervention(temperature={0: 1.0}))

    def entropy(a: Tensor) -> Tensor:
        return -(a * a.clamp_min(1e-300).log()).sum(-1)

    assert (entropy(sharp.blocks[0].attention) < entropy(clean.blocks[0].attention)).all()
    assert torch.equal(same.logits, clean.logits)


def test_only_the_parts_that_are_asked_for_are_kept() -> None:
    model, x = make("token")
    _, record = trace(model, x, parts=("values",))
    assert list(record.blocks[0].kept) == ["values"]
    with pytest.raises(ValueError, match="kept values, not attention"):
        _ = record.blocks[0].attention


def test_gradients_reach_every_part_that_the_logits_follow_from() -> None:
    model, x = make("token")
    logits, record = trace(model, x, gradients=True)
    parts = [b.attention for b in record.blocks] + [record.blocks[0].mlp_hidden, record.embedded]
    found = torch.autograd.grad(logits[:, 3].sum(), parts)
    assert all(float(g.abs().max()) > 0 for g in found)
    assert not trace(model, x)[0].requires_grad


def test_what_the_model_does_not_have_is_named() -> None:
    model, x = make("token")
    for change, text in [
        (Intervention(heads={(0, 3): "zero"}), "head"),
        (Intervention(mlp={3: "zero"}), "block"),
        (Intervention(drop=[24]), "patch"),
    ]:
        with pytest.raises(UnknownName, match=text):
            trace(model, x, change=change)
    with pytest.raises(UnknownName, match="attention"):
        trace(model, x, parts=("attentoin",))
    for wrong in (
        Intervention(order=[0, 1]),
        Intervention(drop=[1, 1]),
        Intervention(drop=range(24)),
        Intervention(temperature={0: 0.0}),
    ):
        with pytest.raises(ValueError):
            trace(model, x, change=wrong)
    with pytest.raises(ConfigError, match="no tokens"):
        trace(ResNet(ResNetConfig(layers=(1,), width=32, classes=3)), x)


@pytest.mark.parametrize("kind", KINDS)
def test_pre_logits_are_what_the_linear_head_reads(kind: str) -> None:
    model, x = make(kind)
    _, record = trace(model, x)
    assert gap(record.pre_logits.flatten(1), model.represent(x)) < 1e-10
    tanh, _ = make("token", pre_logits=8)
    assert gap(trace(tanh, x)[1].pre_logits, tanh.represent(x)) < 1e-10


@pytest.mark.parametrize("after", [False, True])
def test_a_head_that_pools_by_attention_shows_its_weights(after: bool) -> None:
    model, x = make("map", norm_after_pool=after)
    logits, record = trace(model, x, gradients=True)
    assert gap(logits, model(x)) < 1e-12
    looks = record.pool_attention
    assert looks is not None and looks.shape == (2, 3, 1, 24)
    assert gap(looks.sum(-1), torch.ones(2, 3, 1, dtype=torch.float64)) < 1e-12
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), looks)
    assert float(gradient.abs().max()) > 0  # the logits follow from it
    assert trace(*make("token"))[1].pool_attention is None


def test_a_hybrid_shows_its_feature_map() -> None:
    model, x = make("hybrid")
    _, record = trace(model, x)
    assert model.stem is not None and record.stem is not None
    assert gap(record.stem, model.stem.features(x)) == 0.0
    assert gap(record.patches, model.patch_embedding(record.stem).flatten(2).transpose(1, 2)) == 0.0
    assert trace(*make("token"))[1].stem is None
