"""Engines: the same logits as the network, found by name, built once, refused where they are not as they should be."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import vitrail
from vitrail.config import Preprocess, ViTConfig
from vitrail.engines import cache, catalog, onnxruntime, openvino
from vitrail.engines.catalog import ENGINES, find_engine, make_engine
from vitrail.engines.quantize import quantize
from vitrail.engines.trial import EXACT, Trial, choose, compare, fastest, pictures
from vitrail.errors import ConfigError, MissingExtra, UnknownName
from vitrail.inference import Classifier, load
from vitrail.models.fold import fold
from vitrail.models.vit import ViT
from vitrail.types import LabelSet


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def classifier(model_folder: Path) -> Classifier:
    return load(model_folder)


def distance(classifier: Classifier, name: str, count: int = 5) -> float:
    pixels = pictures(classifier, count)
    return float((make_engine(name, classifier)(pixels) - classifier.scores(pixels)).abs().max())


@pytest.mark.parametrize("name", ["torch-float32", "openvino-float32"])
def test_a_float32_engine_gives_the_logits_of_the_network(classifier: Classifier, name: str) -> None:
    assert distance(classifier, name) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime-float32", "aoti-float32", "compiled-float32"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_so_does_one_that_takes_longer_to_build(classifier: Classifier, name: str) -> None:
    assert distance(classifier, name) < 1e-4


def test_bfloat16_is_close_and_not_the_same(classifier: Classifier) -> None:
    assert 0 < distance(classifier, "torch-bfloat16") < 0.2


def test_any_number_of_images(classifier: Classifier) -> None:
    engine = make_engine("openvino-float32", classifier)
    assert [tuple(engine(pictures(classifier, count)).shape) for count in (0, 1, 3, 70)] == [
        (0, 3),
        (1, 3),
        (3, 3),
        (70, 3),
    ]


def test_the_classifier_runs_on_the_engine(model_folder: Path, photos: Path) -> None:
    fast = vitrail.load(model_folder, engine="openvino")
    assert fast.engine is not None and fast.engine.name == "openvino-float32"
    plain = vitrail.load(model_folder)
    assert plain.engine is None
    photo = photos / "red" / "red0.png"
    assert fast.predict(photo)[0].labels == plain.predict(photo)[0].labels
    a, b = (vitrail.evaluate(c, photos) for c in (plain, fast))
    assert a.top1 == b.top1 and abs(a.nll - b.nll) < 1e-4
    assert (a.machine.precision, b.machine.precision) == ("float32", "openvino-float32")


def test_names() -> None:
    assert find_engine("openvino") == "openvino-float32"
    assert find_engine("openvino", "bfloat16") == find_engine("openvino-bfloat16") == "openvino-bfloat16"
    with pytest.raises(UnknownName, match="did you mean 'openvino"):
        find_engine("openvin")
    with pytest.raises(UnknownName):
        find_engine("openvino-bfloat16", "float32")


def test_onnx_runtime_takes_the_card_where_it_can() -> None:
    cpu, card = torch.device("cpu"), torch.device("cuda")
    both = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert onnxruntime.providers(card, both) == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert onnxruntime.providers(cpu, both) == onnxruntime.providers(card, both[2:]) == ["CPUExecutionProvider"]


def test_a_card_that_onnx_runtime_cannot_start_is_no_silent_fallback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(runtime, "get_available_providers", lambda: both)
    started = SimpleNamespace(get_providers=lambda: both[1:])
    monkeypatch.setattr(runtime, "InferenceSession", lambda *arguments, **options: started)
    with pytest.raises(ConfigError, match="cannot start it"):
        onnxruntime.ONNXRuntimeEngine(tmp_path / onnxruntime.GRAPH, "onnxruntime-float32", torch.device("cuda"))


def test_a_missing_package_is_a_sentence(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'vitrail\[openvino\]'"):
        make_engine("openvino-float32", classifier)


def test_int8_asks_for_photos(classifier: Classifier) -> None:
    with pytest.raises(ConfigError, match="--calibrate PHOTOS"):
        make_engine("openvino-int8", classifier)


@pytest.mark.slow
def test_int8_activations_have_no_zero_point(classifier: Classifier) -> None:
    graph = openvino.convert(fold(classifier.model, classifier.preprocess))
    scaled = [n for n in quantize(graph, pictures(classifier, 4)).get_ops() if n.get_type_name() == "FakeQuantize"]
    activations = [n for n in scaled if n.input_value(0).get_node().get_type_name() != "Constant"]
    ranges = [[float(n.input_value(i).get_node().data.item()) for i in (1, 2)] for n in activations]
    assert len(ranges) > 4 * classifier.model.config.depth
    assert all(low == 0 or low == pytest.approx(-high * 128 / 127, rel=1e-3) for low, high in ranges), ranges


def test_a_graph_is_built_once(classifier: Classifier, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_engine("openvino-float32", classifier)
    built = [p.name for p in (own_cache / "engines").iterdir()]
    monkeypatch.setattr(catalog.openvino, "convert", lambda folded: pytest.fail("converted again"))
    make_engine("openvino-float32", classifier)
    assert [p.name for p in (own_cache / "engines").iterdir()] == built and len(built) == 1


def test_other_weights_are_another_graph(classifier: Classifier) -> None:
    before = cache.network_key(classifier.model, {})
    with torch.no_grad():
        next(classifier.model.parameters()).view(-1)[0] += 1
    assert cache.network_key(classifier.model, {}) != before


def test_a_build_that_fails_leaves_nothing(own_cache: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.cached("key", fails)
    assert list((own_cache / "engines").iterdir()) == []


def test_native_code_from_elsewhere_is_refused(tmp_path: Path) -> None:
    from vitrail.engines.aoti import AOTIEngine
    from vitrail.errors import WeightsError

    (tmp_path / "model.pt2").write_bytes(b"anything")
    with pytest.raises(WeightsError, match="was not built on this machine"):
        AOTIEngine(tmp_path / "model.pt2", "aoti-float32")


def test_an_onnx_file_that_reaches_outside_its_folder_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    from vitrail.errors import WeightsError

    def file(location: str, domain: str) -> Path:
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=location)
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
        graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"], domain=domain)], "g", [], [out], [tensor])
        (tmp_path / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
        return tmp_path / "model.onnx"

    onnxruntime.check_file(file("weights.bin", ""))
    with pytest.raises(WeightsError, match="outside its folder"):
        onnxruntime.check_file(file("../weights.bin", ""))
    with pytest.raises(WeightsError, match="operators of stranger"):
        onnxruntime.check_file(file("weights.bin", "stranger"))
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    assert onnx.__version__
    with pytest.raises(WeightsError, match="not an ONNX file"):
        onnxruntime.check_file(tmp_path / "model.onnx")


def trial(name: str, seconds: float, cosine: float, error: str = "") -> Trial:
    return Trial(name, 8, (float(seconds),) * 3, cosine=float(cosine), error=error)


def test_the_fastest_that_is_alike_is_chosen() -> None:
    trials = [trial(EXACT, 3, 1), trial("a", 1, 0.99), trial("b", 2, 0.9999), Trial("c", 8, error="missing")]
    assert choose(trials) == "b"
    assert choose(trials[1:2]) == EXACT
    assert trials[0].rate == 8 / 3


def test_a_trial_measures_and_the_choice_is_remembered(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = compare(classifier, ["torch-float32", "openvino-float32", "openvino-int8"], 2, rounds=3)
    assert [t.engine for t in trials] == ["torch-float32", "openvino-float32", "openvino-int8"]
    assert all(len(t.seconds) == 3 and t.cosine > 0.9999 and t.agreement == 1 for t in trials[:2])
    assert "calibrate" in trials[2].error and not trials[2].seconds
    monkeypatch.setattr("vitrail.engines.trial.compare", lambda *a, **k: [trial("openvino-float32", 1, 1)])
    assert fastest(classifier) == "openvino-float32"
    monkeypatch.setattr("vitrail.engines.trial.compare", lambda *a, **k: pytest.fail("tried again"))
    assert fastest(classifier) == "openvino-float32"


def test_merging_tokens_is_another_engine() -> None:
    config = ViTConfig(image_size=(8, 8), patch_size=(2, 2), width=8, depth=3, heads=2, mlp_dim=8, classes=3)
    model = ViT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    deep = Classifier(model, Preprocess(size=(8, 8)), LabelSet(("a", "b", "c")))
    labels = torch.zeros(16, dtype=torch.int64)
    merged = compare(deep, [EXACT], 2, labels=labels, merge=2, rounds=2)[0]
    exact = compare(deep, [EXACT], 2, rounds=2)[0]
    assert merged.difference > 1e-3 > exact.difference
    assert merged.right is not None and exact.right is None


def test_every_engine_says_what_it_needs() -> None:
    assert all(row.extra for row in ENGINES.values() if row.package)
