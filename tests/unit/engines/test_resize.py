"""The resize inside a graph gives the pixels of `fit`, whatever runs it and however large the image."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pictures import noise, smooth
from vitrail.config import Preprocess
from vitrail.data.preprocess import covering_size, fit
from vitrail.engines import resize
from vitrail.engines.program import capture_resize
from vitrail.engines.resize import Framed, Resize
from vitrail.errors import ConfigError

SHAPES = [(375, 500), (501, 333), (224, 224), (61, 47), (100, 37), (31, 333), (803, 601), (2, 400), (9, 5)]
SHARE = 0.01  # of the values that may be a level apart


def images(*rows_cols: int) -> list[torch.Tensor]:
    return [torch.from_numpy(make(*rows_cols).copy()) for make in (noise, smooth)]


def differences(run: Callable[[torch.Tensor], torch.Tensor], config: Preprocess, *rows_cols: int) -> tuple[int, float]:
    """The largest, in grey levels, and the share of the values that differ."""
    given = torch.stack(images(*rows_cols))
    expected = torch.stack([fit(image.permute(2, 0, 1), config) for image in given])
    found = run(given)
    assert found.shape == expected.shape and found.dtype == torch.uint8
    apart = (found.int() - expected.int()).abs()
    return int(apart.max()), float((apart > 0).double().mean())


@pytest.mark.parametrize("rows_cols", SHAPES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "area"])
@pytest.mark.parametrize("antialias", [True, False])
def test_pixels_are_those_of_fit(rows_cols, interpolation, antialias):
    for rule, crop, size, margin in (
        ("shortest", 0.9, 224, "even"),
        ("shortest", 0.875, 40, "down"),
        ("shortest", 1.0, (48, 33), "even"),
        ("squash", 1.0, 96, "even"),
        ("squash", 0.8, (33, 70), "down"),
    ):
        config = Preprocess(
            size=size, resize=rule, crop=crop, interpolation=interpolation, antialias=antialias, odd_margin=margin
        )
        largest, share = differences(Resize(config), config, *rows_cols)
        assert largest <= 1 and share <= SHARE, (config, largest, share)


def test_another_resize_is_out_of_bounds():
    """The bound tells the right filter, the right rounding and the right crop from others."""
    config = Preprocess(size=96)
    for change in ({"interpolation": "bilinear"}, {"antialias": False}, {"crop": 0.875}, {"resize": "squash"}):
        other = config.model_copy(update=change)
        largest, share = differences(Resize(other), config, 375, 500)
        assert largest > 1 and share > SHARE


def test_coarser_weights_differ_more(monkeypatch):
    """torch rounds its weights to 16 bits, and the share of different values tells that from another rounding."""
    config = Preprocess(size=224)
    quantised = differences(Resize(config), config, 61, 47)[1]
    monkeypatch.setattr(resize, "_PRECISION", 9)
    assert differences(Resize(config), config, 61, 47)[1] > 10 * max(quantised, 1e-3)


def test_slivers_are_cut_as_fit_cuts_them():
    for rows_cols in ((2, 301), (300, 2), (3, 400)):
        config = Preprocess(size=32)
        assert differences(Resize(config), config, *rows_cols)[0] <= 1


def test_sizes_in_whole_numbers():
    """Equal for every square; one image size in thousands is a pixel off for the others, where a half is rounded."""
    square, other = Resize(Preprocess(size=224)), Resize(Preprocess(size=(160, 96)))
    off = count = 0
    for rows in range(1, 1200, 17):
        for cols in range(1, 1200, 13):
            sides = torch.tensor([rows]), torch.tensor([cols])
            found = tuple(int(side) for side in square.resized(*sides))
            assert found == covering_size((rows, cols), square.cover)
            off += tuple(int(side) for side in other.resized(*sides)) != covering_size((rows, cols), other.cover)
            count += 1
    assert off <= count / 1000


def test_nearest_cannot_be_inside():
    with pytest.raises(ConfigError, match="nearest pixels cannot be inside the graph"):
        Resize(Preprocess(interpolation="nearest"))


class Flat:
    """An engine whose logits are the pixels that a network would see."""

    def __init__(self, config: Preprocess) -> None:
        self.name, self.resize = "flat", Resize(config)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.resize(pixels).flatten(1).float()


@pytest.mark.parametrize("size", [8, (12, 7)])
@pytest.mark.parametrize("margin", ["even", "down"])
def test_a_framed_image_passes_unchanged(size, margin):
    for rule, crop in (("shortest", 0.9), ("shortest", 0.61), ("squash", 1.0), ("squash", 0.7)):
        config = Preprocess(size=size, resize=rule, crop=crop, odd_margin=margin)
        pixels = torch.stack([fit(image.permute(2, 0, 1), config) for image in images(40, 30)])
        assert torch.equal(Framed(Flat(config), config)(pixels), pixels.flatten(1).float())


CONFIGS = [
    Preprocess(size=96),
    Preprocess(size=(48, 33), interpolation="bilinear"),
    Preprocess(size=64, resize="squash", interpolation="bilinear", antialias=False),
    Preprocess(size=64, interpolation="area", odd_margin="down"),
    Preprocess(size=64, antialias=False),
]
ASKED = [(375, 500), (501, 333), (61, 47), (96, 96), (2, 301)]


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("hint", ["f32", "bf16"])
def test_openvino_resizes_any_size(config, hint, tmp_path: Path):
    """In float32 even where the rest of a graph computes in bfloat16, which OpenVINO knows of a graph that it reads."""
    openvino = pytest.importorskip("openvino")
    from vitrail.engines.openvino import GRAPH, resize_first, write

    rows, cols = config.size
    inner = openvino.opset13.parameter([-1, 3, rows, cols], openvino.Type.u8)
    whole = resize_first(openvino.Model([openvino.opset13.result(inner)], [inner]), config)
    core = openvino.Core()
    if hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16 arithmetic")
    write(whole, tmp_path)
    run = core.compile_model(str(tmp_path / GRAPH), "CPU", {"INFERENCE_PRECISION_HINT": hint})
    for rows_cols in ASKED:
        largest, share = differences(lambda x: torch.from_numpy(run([x.numpy()])[0]), config, *rows_cols)
        assert largest <= 1 and share <= SHARE, (rows_cols, largest, share)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_onnx_runtime_resizes_any_size(config, tmp_path: Path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    file = str(tmp_path / "resize.onnx")
    torch.onnx.export(capture_resize(config), (), file, dynamo=True, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (name,) = (given.name for given in session.get_inputs())
    for rows_cols in ASKED:
        largest, share = differences(
            lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]), config, *rows_cols
        )
        assert largest <= 1 and share <= SHARE, (rows_cols, largest, share)
