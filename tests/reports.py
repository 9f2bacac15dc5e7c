"""A made-up Report for the tests of its page."""

from collections import Counter

from vitrail.report import Calibration, ClassScore, DataFacts, Machine, Mistake, ModelFacts, Report, Unreadable

NAMES = ("cat", "dog", *(f"class {i}" for i in range(2, 1000)))


def make_report(
    *,
    classes: int = 2,
    names: tuple[str, ...] = NAMES,
    name: str = "pets",
    fingerprint: str = "f" * 64,
    note: str = "",
    unreadable: int = 0,
    perfect: bool = False,
) -> Report:
    """Ten images of two classes (five each class where there are more), two of them wrong unless `perfect`."""
    pairs = [(0, 0)] * 3 + [(0, 1)] + [(1, 1)] * 5 + [(1, 0)] if classes == 2 else [(k, k) for k in range(classes)] * 5
    if classes > 2:
        pairs[0], pairs[1] = (0, 1), (1, 2)
    if perfect:
        pairs = [(t, t) for t, _ in pairs]
    counts, right = Counter(pairs), sum(t == p for t, p in pairs)
    support, predicted = Counter(t for t, _ in pairs), Counter(p for _, p in pairs)
    wrong = [i for i, (t, p) in enumerate(pairs) if t != p]
    return Report(
        images=len(pairs),
        top1=right / len(pairs),
        top1_interval=(0.49, 0.94),
        top1_count=right,
        top5=1.0,
        top5_count=len(pairs),
        nll=0.5,
        brier=0.25,
        ece=0.125,
        macro_precision=0.75,
        macro_recall=0.75,
        macro_f1=0.75,
        data=DataFacts(name=name, fingerprint=fingerprint, split="all", held_out=False, note=note, classes=classes),
        model=ModelFacts(
            config={"image_size": [8, 8], "pool": "token", "pre_logits": None, "qkv_bias": True},
            sha256="0123456789abcdef" * 4,
            parameters=12345,
            classes=classes,
            source="runs/pets",
            seed=3,
        ),
        machine=Machine(
            python="3.12.1", torch="2.11.0", vitrail="0.1.0", device="cpu", processor="Abacus", precision="float32"
        ),
        unreadable=tuple(Unreadable(id=f"broken{i}.jpg", reason="truncated") for i in range(unreadable)),
        mistakes=tuple(
            Mistake(
                id=f"{i}.png",
                true=names[pairs[i][0]],
                predicted=names[pairs[i][1]],
                probability=0.75,
                true_probability=0.2,
                # Ten images lie behind the report of two classes; their source holds six.
                index=i % 6,
            )
            for i in wrong
        ),
        reliability=(
            Calibration(low=0.0, high=0.5, count=0, confidence=None, accuracy=None),
            Calibration(low=0.5, high=1.0, count=len(pairs), confidence=0.9, accuracy=right / len(pairs)),
        ),
        classes=tuple(
            ClassScore(
                name=names[k],
                support=support[k],
                predicted=predicted[k],
                correct=counts[k, k],
                precision=counts[k, k] / predicted[k] if predicted[k] else None,
                recall=counts[k, k] / support[k],
                f1=2 * counts[k, k] / (support[k] + predicted[k]),
            )
            for k in range(classes)
        ),
        confusion=tuple((t, p, n) for (t, p), n in sorted(counts.items())),
    )
