"""What the loaders hand out, and that they leave nothing behind: no generator state and no process."""

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch

from pictures import encode, noise, smooth
from vitrail.config import AugmentConfig, DataConfig, Preprocess
from vitrail.data import loader as module
from vitrail.data.augment import augment
from vitrail.data.decode import decode
from vitrail.data.loader import EvaluationPass, TrainLoader, worker_count
from vitrail.data.preprocess import preprocess, to_model
from vitrail.data.sampler import batch_positions, sample_seed
from vitrail.data.stores import MemorySource
from vitrail.errors import DataError, WorkerDied

STILL = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0)
SIZE = Preprocess(size=8)


def source(n: int = 12, broken: tuple[int, ...] = (), classes: int = 2, size: int = 8) -> MemorySource:
    data = [b"no image" if i in broken else encode(noise(size, size, i)) for i in range(n)]
    names = tuple(f"image-{i}" for i in range(n))
    labels = np.arange(n, dtype=np.int64) % classes
    return MemorySource(tuple("abcdefgh"[:classes]), labels, tuple(data), names)


def train(data: MemorySource, config: AugmentConfig = STILL, **options: object) -> TrainLoader:
    return TrainLoader(data, SIZE, config, DataConfig(**({"batch_size": 4, "workers": 0} | options)), seed=0)


def test_a_batch_is_its_images_augmented_and_normalised():
    data, config = source(), AugmentConfig(rotate=10.0)
    (batch,) = train(data, config).batches(2, 3)
    positions = batch_positions(12, 4, 0, 2)
    assert batch.index.tolist() == [index for _, index in positions]
    assert batch.labels.tolist() == [index % 2 for _, index in positions]
    for image, (epoch, index) in zip(batch.images, positions, strict=True):
        pixels = augment(decode(data.data[index]), (8, 8), config, sample_seed(0, epoch, index))
        assert torch.equal(image, to_model(pixels, SIZE))


def test_the_same_image_is_augmented_otherwise_in_another_epoch():
    batches = list(train(source(4), AugmentConfig(rotate=30.0)).batches(0, 2))
    of = [{int(i): image for i, image in zip(b.index, b.images, strict=True)} for b in batches]
    assert all(not torch.equal(of[0][i], of[1][i]) for i in range(4))


def test_mixed_batches_have_soft_labels():
    (batch,) = train(source(), AugmentConfig(mixup=0.5)).batches(0, 1)
    assert batch.labels.shape == (4, 2) and torch.allclose(batch.labels.sum(1), torch.ones(4))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generators_are_left_alone(workers):
    config = AugmentConfig(randaugment_layers=2, erase=0.5, mixup=0.2)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(train(source(), config, workers=workers).batches(0, 3))
    list(EvaluationPass(source(), SIZE, 4, workers=workers))
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()


def test_an_evaluation_pass_prepares_as_prediction_does():
    data = source(5, size=11)
    for batch in EvaluationPass(data, SIZE, 2, workers=0):
        for image, label, index in zip(batch.images, batch.labels, batch.index, strict=True):
            assert torch.equal(image, preprocess(decode(data.data[index]), SIZE))
            assert label == data.labels[index]


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_names_what_it_cannot_read_and_counts_the_rest(workers):
    passes = EvaluationPass(source(12, broken=(0, 4, 5, 6, 7)), SIZE, 4, workers=workers)
    for _ in range(2):  # a second pass starts afresh
        batches = list(passes)
        assert [batch.index.tolist() for batch in batches] == [[1, 2, 3], [8, 9, 10, 11]]
        assert passes.unreadable == [(f"image-{i}", "not an image, but text") for i in (0, 4, 5, 6, 7)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_replaced_by_one_of_its_class_and_counted(workers):
    loader = train(source(12, broken=(3,)), workers=workers, max_broken=0.1)
    batches = list(loader.batches(0, 30))
    assert loader.broken == {"image-3": "not an image, but text"}
    seen = [int(i) for batch in batches for i in batch.index]
    assert 3 not in seen
    labels = [int(label) for batch in batches for label in batch.labels]
    assert labels == [index % 2 for index in seen]
    planned = [index for step in range(30) for _, index in batch_positions(12, 4, 0, step)]
    stand_ins = {now for now, plan in zip(seen, planned, strict=True) if plan == 3}
    assert len(stand_ins) > 1 and all(index % 2 == 1 for index in stand_ins)  # not the same one for ever
    assert all(now == plan for now, plan in zip(seen, planned, strict=True) if plan != 3)


def test_the_stand_in_does_not_depend_on_what_was_read_before():
    loader = train(source(12, broken=(3, 5)), max_broken=0.5)
    whole = list(loader.batches(0, 20))
    late = list(train(source(12, broken=(3, 5)), max_broken=0.5).batches(13, 20))
    assert [b.index.tolist() for b in whole[13:]] == [b.index.tolist() for b in late]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_broken_images_stop_with_the_list(workers):
    loader = train(source(12, broken=(2, 3)), workers=workers, max_broken=0.1)
    with pytest.raises(DataError) as caught:
        list(loader.batches(0, 10))
    assert str(caught.value) == (
        "at most 10.0% of the images may be unreadable (data.max_broken), found 2 of 12 so far: "
        "image-2: not an image, but text; image-3: not an image, but text. Repair or remove them"
    )


def test_exactly_the_allowed_share_may_be_broken():
    loader = train(source(10, broken=(2,)), max_broken=0.1)
    list(loader.batches(0, 10))
    assert len(loader.broken) == 1


def test_a_long_list_of_broken_images_is_cut():
    loader = train(source(60, broken=tuple(range(0, 56, 2))), max_broken=0.45, batch_size=60)
    with pytest.raises(DataError, match=r"found 28 of 60 so far: .*; and 8 more\. Repair"):
        list(loader.batches(0, 1))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_class_without_a_readable_image_is_named(workers):
    loader = train(source(4, broken=(1, 3)), workers=workers, max_broken=1.0)
    with pytest.raises(DataError) as caught:
        list(loader.batches(0, 1))
    text = str(caught.value)
    assert text.startswith("every class needs a readable image, but none of 'b' is: image-")
    assert "image-1: not an image, but text" in text and "image-3: not an image, but text" in text
    assert "Traceback" not in text


def test_no_images_are_refused():
    with pytest.raises(DataError, match="there are no images to train on"):
        train(MemorySource(("a",), np.empty(0, dtype=np.int64), (), ()))


def test_an_interrupted_stream_leaves_no_process():
    stream = train(source(), workers=2).batches(0, 1000)
    next(stream)
    assert len(multiprocessing.active_children()) == 2
    stream.close()
    assert multiprocessing.active_children() == []


def test_a_refused_stream_leaves_no_process_while_its_error_is_held():
    with pytest.raises(DataError) as caught:
        list(train(source(12, broken=(2, 3)), workers=2, max_broken=0.1).batches(0, 50))
    assert caught.value.__traceback__ is not None
    assert multiprocessing.active_children() == []
    with pytest.raises(DataError):
        list(train(source(4, broken=(1, 3)), workers=1, max_broken=1.0).batches(0, 50))
    assert multiprocessing.active_children() == []


def test_ctrl_c_is_the_parents_to_handle():
    """Workers survive the signal that the terminal sends to the whole group."""
    stream = train(source(), workers=1).batches(0, 30)
    next(stream)
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGINT)
    assert len(list(stream)) == 29


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_dead_worker_is_one_sentence_where_the_next_batch_is_asked_for(number):
    handler = signal.getsignal(signal.SIGCHLD)
    stream = train(source(), workers=2).batches(0, 100)
    next(stream)
    victim = multiprocessing.active_children()[0]
    os.kill(victim.pid, number)
    victim.join()
    sum(range(1000))  # a line of somebody else's, in the middle of which torch would raise it
    with pytest.raises(WorkerDied) as caught:
        list(stream)
    assert str(caught.value) == (
        f"a process that reads images died (killed: {signal.strsignal(number)}), as happens where memory runs out: run "
        "the same command again, with fewer workers (data.workers) or a smaller batch if it dies again"
    )
    assert multiprocessing.active_children() == [] and signal.getsignal(signal.SIGCHLD) == handler


def test_a_worker_that_ends_itself_is_told_with_its_exit_code(monkeypatch):
    monkeypatch.setattr(module._EvaluationParts, "__getitem__", lambda self, step: os._exit(7))
    with pytest.raises(WorkerDied, match=r"died \(exit code 7\)"):
        list(EvaluationPass(source(), SIZE, 4, workers=1))


def test_a_worker_computes_with_one_thread(monkeypatch):
    def threads(self, step):
        return module._Part(torch.tensor([torch.get_num_threads()]), torch.tensor([0]), torch.tensor([0]), [])

    monkeypatch.setattr(module._EvaluationParts, "__getitem__", threads)
    make = module._EvaluationParts(source(), SIZE, 4)
    assert [int(part.pixels) for part in module._run(make, range(2), workers=1)] == [1, 1]


@pytest.mark.parametrize(
    ("n", "size", "asked", "expected"),
    [(200, 8, None, 0), (200, 64, None, 0), (200, 65, None, 3), (10, 100, None, 0), (10, 8, 2, 2), (200, 65, 0, 0)],
)
def test_worker_processes_are_for_many_or_large_images(monkeypatch, n, size, asked, expected):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    images = (b"broken", *[encode(noise(size, size))] * (n - 1))
    data = MemorySource(("a", "b"), np.zeros(n, dtype=np.int64), images, ("x",) * n)
    assert worker_count(data, asked) == expected


def test_tiny_images_are_decoded_once(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "decode", lambda data, **_: calls.append(data) or decode(data))
    list(train(source(4)).batches(0, 10))
    assert len(calls) == 4
    large = train(source(4, size=65))
    list(large.batches(0, 2))
    assert len(calls) == 4 + 8


def test_large_photos_are_decoded_no_larger_than_any_crop_needs():
    config = AugmentConfig(crop_scale=(0.25, 1.0), crop_ratio=(1.0, 1.0), flip=0.0)
    assert module.smallest_side((8, 8), config) == 16
    assert module.smallest_side((224, 224), AugmentConfig()) == 915  # 224 / sqrt(0.08 * 0.75)
    data = MemorySource(("a",), np.zeros(1, dtype=np.int64), (encode(smooth(128, 256), "JPEG"),), ("photo",))
    (batch,) = train(data, config, batch_size=1).batches(0, 1)
    pixels = decode(data.data[0], at_least=16)
    assert pixels.shape == (3, 16, 32)
    expected = augment(pixels, (8, 8), config, sample_seed(0, 0, 0))
    assert torch.equal(batch.images[0], to_model(expected, SIZE))
    (exact,) = EvaluationPass(data, SIZE.model_copy(update={"jpeg": "full"}), 1, workers=0)  # every pixel
    assert torch.equal(exact.images[0], preprocess(decode(data.data[0]), SIZE))


def test_kept_images_have_a_limit(monkeypatch):
    monkeypatch.setattr(module, "_KEPT", 2 * 3 * 64)
    loader = train(source(4))
    list(loader.batches(0, 3))
    assert len(loader._make.reader.kept) == 2


def test_kept_images_are_not_changed_by_augmentation():
    loader = train(source(4), AugmentConfig(erase=1.0, randaugment_layers=2))
    list(loader.batches(0, 5))
    kept = loader._make.reader.kept
    assert all(torch.equal(kept[i], decode(source(4).data[i])) for i in range(4))
