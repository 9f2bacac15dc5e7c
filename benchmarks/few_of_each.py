"""The first images of each class of a data set, as class folders that other libraries read too.

python benchmarks/few_of_each.py cifar10 few --train 300 --test 200
"""

import argparse
from collections import Counter
from pathlib import Path

from vitrail.data.sources import open_dataset
from vitrail.data.stores import Source


def write(source: Source, folder: Path, count: int) -> None:
    """The first `count` images of each class, their bytes as they are, numbered as in the source."""
    written: Counter[int] = Counter()
    for place, label in enumerate(source.labels.tolist()):
        if written[label] < count:
            written[label] += 1
            own = folder / source.classes[label]
            own.mkdir(parents=True, exist_ok=True)
            (own / f"{place}.png").write_bytes(source.read(place).data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="what `vitrail train` takes, with PNG images and a held-out split")
    parser.add_argument("folder", type=Path, help="a new folder, which gets train/ and val/")
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--test", type=int, default=200)
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    write(dataset.split("train"), options.folder / "train", options.train)
    write(dataset.split(dataset.held_out), options.folder / "val", options.test)


if __name__ == "__main__":
    main()
