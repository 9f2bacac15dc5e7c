"""int8 for OpenVINO: NNCF's post-training quantisation, with the layers that lose most kept in floating point."""

import logging
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from vitrail.engines.openvino import library
from vitrail.errors import MissingExtra


def quantize(model: Any, calibration: UInt8[Tensor, "N 3 H W"]) -> Any:
    """The graph with int8 matrix products. Scales come from `calibration`: weights one a row, activations one a
    tensor, asymmetric but before matrix products (NNCF's MIXED)."""
    library()
    try:
        import nncf
    except ImportError as error:
        raise MissingExtra("nncf", "openvino", "int8") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    photos = nncf.Dataset([calibration[i : i + 1].numpy() for i in range(len(calibration))])
    return nncf.quantize(
        model,
        photos,
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(calibration),
    )
