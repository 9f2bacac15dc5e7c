"""int8 for OpenVINO: NNCF's post-training quantisation, with the layers that lose most kept in floating point."""

import contextlib
import io
import logging
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from vitrail.engines.openvino import library
from vitrail.errors import MissingExtra


def quantize(model: Any, calibration: UInt8[Tensor, "N 3 H W"]) -> Any:
    """The graph with int8 linear layers and patch embedding; the products of attention stay in floating point, and so
    do the convolutions of a ResNet.

    Scales come from `calibration`: weights one a row, activations one a tensor, symmetric: a processor with tiles
    (AMX) takes long over a zero point, and with them switched off it lost nothing. SmoothQuant is off: the norms'
    weights are folded into the layers already, and smoothing on top of that cost accuracy (docs/log.md).
    """
    library()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it says that there is no GPU
    try:
        import nncf
    except ImportError as error:
        raise MissingExtra("nncf", "openvino", "int8") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    apart = ["ScaledDotProductAttention"]
    if sum(node.get_type_name() == "Convolution" for node in model.get_ops()) > 1:
        apart.append("Convolution")
    photos = nncf.Dataset([calibration[i : i + 1].numpy() for i in range(len(calibration))])
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(
            model,
            photos,
            preset=nncf.QuantizationPreset.PERFORMANCE,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(types=apart, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1)
            ),
        )
