"""Images a second of vitrail's engines beside other ways to run the same weights, on this machine.

    python benchmarks/inference.py --weights shared/weights/deit_tiny_patch16_224 --photos shared/data/flowers/train
    python benchmarks/inference.py --small                     # a tiny ViT, two rounds; the ratios mean nothing

Cases are DeiT-Ti (the weights given) and a B/16 with random weights, at several numbers of images a call. In each round
every side answers once, and so does a matrix product, in an order that is shuffled anew; a round gives a ratio of their
times, and the median and quartiles of the ratios are reported. vitrail's sides take uint8 pixels; the others get their
images already normalised, which is not counted against them.

The ceiling: operations of the forward pass, counted from the configuration without what the last block may skip, over
the rate of the best matrix product (`--products`) in bfloat16, in the same round.

`--clock processor --threads 1` counts the seconds that the one thread computed, which hold on a machine that is busy
with other things too; the wall's clock needs an idle one.

`--device cuda` times the torch engines and timm on a GPU; what cannot run is reported as "not measured".
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import timm
import torch

from vitrail.config import Preprocess, ViTConfig
from vitrail.data.preprocess import to_model
from vitrail.engines.calibration import calibration_pixels
from vitrail.engines.catalog import ENGINES, make_engine
from vitrail.engines.trial import pictures
from vitrail.inference import Classifier, load
from vitrail.models.cost import flops
from vitrail.models.vit import ViT
from vitrail.report import processor
from vitrail.types import LabelSet
from vitrail.weights.load import FORMATS
from vitrail.weights.rename import write_tensors

Call = Callable[[], object]
Clock = Callable[[], float]
MERGED = (8, 13)  # tokens a block, of ToMe
SMALL = ViTConfig(image_size=(32, 32), patch_size=(16, 16), width=192, depth=2, heads=3, mlp_dim=768, classes=10)


@dataclass(frozen=True, eq=False)
class Case:
    """A model for everybody: ours, and the same weights in timm."""

    name: str
    classifier: Classifier
    calibration: torch.Tensor | None
    device: torch.device

    def timm(self) -> torch.nn.Module:
        """timm's model with our weights."""
        config = self.classifier.model.config
        model = timm.models.VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            mlp_ratio=config.mlp_dim / config.width,
            num_classes=config.classes,
        )
        return _with_weights(model, self, "timm").eval().to(self.device)


def _with_weights(model: torch.nn.Module, case: Case, form: str) -> torch.nn.Module:
    state = {name: tensor.detach() for name, tensor in case.classifier.model.state_dict().items()}
    model.load_state_dict(write_tensors(state, FORMATS[form].rules(case.classifier.model.config)), strict=True)
    return model


def vitrail_side(engine: str, merge: int = 0) -> Callable[[Case, torch.Tensor], Call]:
    def make(case: Case, pixels: torch.Tensor) -> Call:
        run = make_engine(engine, case.classifier, case.calibration, merge)
        return lambda: run(pixels)

    return make


def eager(module: torch.nn.Module, case: Case, pixels: torch.Tensor, half: bool = False) -> Call:
    images = to_model(pixels, case.classifier.preprocess).to(case.device)

    @torch.inference_mode()
    def call() -> object:
        with torch.autocast(case.device.type, torch.bfloat16, enabled=half):
            out = module(images)
        return (out.logits if hasattr(out, "logits") else out).float().cpu()

    return call


def transformers_side(case: Case, pixels: torch.Tensor) -> Call:
    from transformers import ViTConfig as TheirConfig
    from transformers import ViTForImageClassification

    config = case.classifier.model.config
    rules = FORMATS["transformers-vit"].rules(config)
    theirs = ViTForImageClassification.from_pretrained(  # which renames the tensors of its own older releases
        None,
        state_dict=write_tensors(dict(case.classifier.model.state_dict()), rules),
        config=TheirConfig(
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            intermediate_size=config.mlp_dim,
            image_size=config.image_size[0],
            patch_size=config.patch_size[0],
            num_labels=config.classes,
            layer_norm_eps=config.norm_eps,
            hidden_dropout_prob=0.0,
        ),
    )
    return eager(theirs.eval().to(case.device), case, pixels)


def torchvision_side(case: Case, pixels: torch.Tensor) -> Call:
    from torchvision.models.vision_transformer import VisionTransformer

    config = case.classifier.model.config
    theirs = VisionTransformer(
        image_size=config.image_size[0],
        patch_size=config.patch_size[0],
        num_layers=config.depth,
        num_heads=config.heads,
        hidden_dim=config.width,
        mlp_dim=config.mlp_dim,
        num_classes=config.classes,
    )
    return eager(_with_weights(theirs, case, "torchvision").eval().to(case.device), case, pixels)


@cache
def _program(case: Case) -> torch.export.ExportedProgram:
    images = to_model(pictures(case.classifier, 2), case.classifier.preprocess)
    return torch.export.export(
        case.timm(), (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},)
    )


def timm_openvino(precision: str) -> Callable[[Case, torch.Tensor], Call]:
    def make(case: Case, pixels: torch.Tensor) -> Call:
        from vitrail.engines.openvino import library

        openvino = library()
        model = openvino.convert_model(_program(case))
        model.reshape([-1, *pixels.shape[1:]])
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
        images = to_model(pixels, case.classifier.preprocess).numpy()
        return lambda: request.infer([images], share_inputs=True)[0]

    return make


def timm_onnxruntime(case: Case, pixels: torch.Tensor) -> Call:
    import tempfile
    import warnings

    import onnxruntime

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "timm.onnx"
        torch.onnx.export(_program(case), (), str(path), dynamo=True, external_data=False, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name, images = session.get_inputs()[0].name, to_model(pixels, case.classifier.preprocess).numpy()
    return lambda: session.run(None, {name: images})[0]


SIDES: Mapping[str, Callable[[Case, torch.Tensor], Call]] = {
    **{f"vitrail {engine}": vitrail_side(engine) for engine in ENGINES},
    **{f"vitrail openvino-bfloat16, merge {n}": vitrail_side("openvino-bfloat16", n) for n in MERGED},
    "timm eager float32": lambda case, pixels: eager(case.timm(), case, pixels),
    "timm eager bfloat16": lambda case, pixels: eager(case.timm(), case, pixels, half=True),
    "timm compiled float32": lambda case, pixels: eager(torch.compile(case.timm()), case, pixels),
    "timm compiled bfloat16": lambda case, pixels: eager(torch.compile(case.timm()), case, pixels, half=True),
    "transformers eager float32": transformers_side,
    "torchvision eager float32": torchvision_side,
    "OpenVINO float32 on timm's export": timm_openvino("f32"),
    "OpenVINO bfloat16 on timm's export": timm_openvino("bf16"),
    "ONNX Runtime float32 on timm's export": timm_onnxruntime,
}
USUAL = (
    *("vitrail openvino-float32", "vitrail openvino-bfloat16", "vitrail openvino-int8"),
    *("timm eager float32", "timm compiled float32", "timm compiled bfloat16"),
    *("transformers eager float32", "torchvision eager float32"),
    "OpenVINO float32 on timm's export",
    *("OpenVINO bfloat16 on timm's export", "ONNX Runtime float32 on timm's export"),
)
CLAIMS = {  # side -> those that it is held against
    "vitrail openvino-bfloat16": ("timm eager float32", "timm compiled bfloat16", "OpenVINO bfloat16 on timm's export"),
    "vitrail openvino-float32": tuple(name for name in USUAL if "float32" in name and not name.startswith("vitrail")),
    "vitrail openvino-int8": ("vitrail openvino-bfloat16",),
    **{f"vitrail openvino-bfloat16, merge {n}": ("vitrail openvino-bfloat16",) for n in MERGED},
}


def products(device: torch.device, sizes: tuple[int, ...]) -> Mapping[str, tuple[Call, float]]:
    """Matrix products in bfloat16, each with its operations."""
    found = {}
    for n in sizes:
        a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
        found[f"product {n}"] = (lambda a=a, b=b: a @ b, 2.0 * n**3)
    return found


CLOCKS: Mapping[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}


def seconds_of(call: Call, device: torch.device, clock: Clock) -> float:
    began = clock()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began


def measure(
    case: Case, sides: list[str], batch: int, rounds: int, sizes: tuple[int, ...], clock: Clock
) -> dict[str, Any]:
    """Seconds of all sides in turn, and what follows from them."""
    pixels = pictures(case.classifier, batch)
    calls: dict[str, Call] = {}
    reasons: dict[str, str] = {}
    for side in sides:
        try:
            calls[side] = SIDES[side](case, pixels)
            calls[side]()
        except Exception as error:  # a peer that is not installed, or cannot hold the model, is a row all the same
            reasons[side] = f"not measured: {type(error).__name__}: {error}".splitlines()[0][:160]
    ceilings = products(case.device, sizes)
    everything = {**calls, **{name: call for name, (call, _) in ceilings.items()}}
    seconds: dict[str, list[float]] = {name: [] for name in everything}
    for turn in range(rounds + 2):
        for name in random.Random(turn).sample(list(everything), len(everything)):  # none is always behind the same one
            time.sleep(0.01)  # threads of the side before may spin a while after its answer
            spent = seconds_of(everything[name], case.device, clock)
            if turn >= 2:
                seconds[name].append(spent)
    work = flops(case.classifier.model.config, all_tokens=False) * batch
    rates = [max(operations / seconds[name][i] for name, (_, operations) in ceilings.items()) for i in range(rounds)]
    rows = {side: {"images_per_second": spread([batch / s for s in seconds[side]])} for side in calls}
    for side, row in rows.items():
        row["share_of_product_rate"] = spread([work / s / r for s, r in zip(seconds[side], rates, strict=True)])
        if "timm eager float32" in calls:
            row["times_timm_eager"] = ratio(seconds, side, "timm eager float32")
    claims = {
        f"{side} over {other}": ratio(seconds, side, other)
        for side, others in CLAIMS.items()
        for other in others
        if side in calls and other in calls
    }
    return {
        "case": case.name,
        "batch": batch,
        "sides": {**rows, **reasons},
        "claims": claims,
        "product_rate": spread(rates),
        "seconds": seconds,
    }


def ratio(seconds: Mapping[str, list[float]], side: str, other: str) -> dict[str, float]:
    """How many times as many images a second as `other`, round by round."""
    return spread([b / a for a, b in zip(seconds[side], seconds[other], strict=True)])


def spread(values: list[float]) -> dict[str, float]:
    low, _, high = quantiles(values, n=4)
    return {"median": median(values), "low": low, "high": high, "best": max(values)}


def show(found: dict[str, Any]) -> None:
    print(f"\n{found['case']}, batch {found['batch']}; product {found['product_rate']['median'] / 1e9:,.0f} GFLOP/s")
    for side, row in found["sides"].items():
        if isinstance(row, str):
            print(f"  {side:40} {row}")
            continue
        rate, share = row["images_per_second"], row["share_of_product_rate"]
        print(f"  {side:40} {rate['median']:8.1f} img/s ({rate['low']:.1f}-{rate['high']:.1f})  "
              f"{100 * share['median']:5.1f} % of the product")  # fmt: skip
    for claim, r in found["claims"].items():
        print(f"  {claim}: {r['median']:.2f} ({r['low']:.2f}-{r['high']:.2f})")
    sys.stdout.flush()


def cases(options: argparse.Namespace, device: torch.device) -> list[Case]:
    def drawn(name: str, config: ViTConfig) -> Case:
        torch.manual_seed(0)
        model = ViT(config)
        with torch.no_grad():
            model.head.weight.normal_(std=0.02)
        labels = LabelSet(tuple(f"class {i}" for i in range(config.classes)))
        classifier = Classifier(model, Preprocess(size=config.image_size), labels, device=device)
        return Case(name, classifier, pictures(classifier, 4 if options.small else 32), device)

    if options.small:
        return [drawn("tiny", SMALL)]
    found = []
    if options.weights is not None and "Ti/16" in options.models:
        classifier = load(options.weights, device=str(device))
        photos = None if options.photos is None else calibration_pixels(classifier, options.photos)
        found.append(Case("Ti/16", classifier, photos, device))
    sizes = {"S/16": (384, 12, 6, 1536), "B/16": (768, 12, 12, 3072), "L/16": (1024, 24, 16, 4096)}
    for name, (width, depth, heads, mlp_dim) in sizes.items():
        if name in options.models:
            found.append(drawn(name, ViTConfig(width=width, depth=depth, heads=heads, mlp_dim=mlp_dim)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="a model folder of DeiT-Ti")
    parser.add_argument("--photos", type=Path, help="photos that choose the scales of its int8")
    parser.add_argument("--models", nargs="+", default=["Ti/16", "B/16"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(USUAL))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--products", nargs="+", type=int, default=[1536, 3072])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, help="of every side; by default as many as torch takes")
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("inference.json"))
    options = parser.parse_args()
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    facts: dict[str, Any] = {"torch": str(torch.__version__), "timm": timm.__version__, "cases": []}
    facts["clock"] = options.clock
    if device.type == "cuda" and not torch.cuda.is_available():
        facts["cases"] = "not measured: there is no GPU"
        print(facts["cases"])
    else:
        facts |= {"device": processor(device), "threads": torch.get_num_threads(), "cores": os.cpu_count()}
        for case in cases(options, device):
            for batch in options.batch[:1] if options.small else options.batch:
                rounds = 2 if options.small else options.rounds
                sizes = (64,) if options.small else tuple(options.products)
                found = measure(case, options.sides, batch, rounds, sizes, CLOCKS[options.clock])
                show(found)
                facts["cases"].append(found)
    options.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
