"""What `adapt` as it comes is worth beside scikit-learn on the same features, and whether it knows what it does not know.

    python benchmarks/head.py ../shared/datasets --draws 3 --out docs/results.md

DATASETS is a folder of data sets with train/ and test/. For each set, number of photos a class and draw:

* accuracy on the test photos, all classes, of `adapt --method auto` with its default budget, of residuals (`--fast`), of float
  logistic regression (C by cross-validation over the same photos) and of the hand-written prompt; bytes and seconds of the first,
  from features to pack;
* whether the accuracy that it told to expect holds: the test accuracy lies within the margin;
* with most photos: area under the curve of telling its own test photos from those of all other sets (far), and from the other
  half of its own classes where it has learned one half (near); rightly labelled photos that the pack's threshold calls unknown;
* base and new: half of the classes with photos, all names among the labels; the harmonic mean of both, beside residuals.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timing import publish

from edge_qprompt import Backbone, Classifier, Pack
from edge_qprompt.bench.regression import regression
from edge_qprompt.classify import zero_shot
from edge_qprompt.learn import METHODS, AdaptSettings
from edge_qprompt.learn.candidates import choose, expected
from edge_qprompt.learn.method import ClosedForm
from edge_qprompt.learn.shots import Shots
from edge_qprompt.learn.threads import one_blas_thread
from edge_qprompt.pack import Precision, names_section
from edge_qprompt.photos import features_of, load_dataset

SHOTS = (1, 2, 4, 8, 16)
MANY = 50  # classes from which a set has one draw: a regression takes a minute
STRANGERS = 150  # photos of each other set

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Data:
    """A data set's features.

    Attributes:
        shots: all training photos.
        photos, labels: (M, D) and (M,) of the test split.
        names: (C,).
    """

    shots: Shots
    photos: Array
    labels: NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def of(cls, backbone: Backbone, folder: Path) -> Data:
        """Encoded, or from the cache."""
        data = load_dataset(folder)
        assert data.test
        train, test = features_of(backbone, data.train), features_of(backbone, data.test)
        labels = [np.array(part.labels)[each.kept] for part, each in ((data.train, train), (data.test, test))]
        text = zero_shot(backbone, data.names).class_features
        return cls(Shots(train.values, labels[0], text, backbone.manifest.logit_scale), test.values[:, 0], labels[1], data.names)

    def draw(self, count: int, seed: int) -> Shots:
        """So many training photos of each class."""
        rng, labels = np.random.default_rng(seed), self.shots.labels
        return self.shots.of(
            np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:count] for c in range(len(self.names))])
        )

    def half(self) -> tuple[Data, NDArray[np.bool_]]:
        """The first half of the classes, and which test photos are of these."""
        classes = np.arange(len(self.names) // 2)
        mine = self.labels < len(classes)
        part = replace(self, shots=self.shots.among(classes), photos=self.photos[mine], labels=self.labels[mine])
        return replace(part, names=self.names[: len(classes)]), mine


def learned(backbone: Backbone, shots: Shots, names: tuple[str, ...], method: str = "auto") -> tuple[Pack, Any, float]:
    """A pack, what it makes expect, and seconds."""
    names_part = names_section(names)
    rest = Pack(backbone.manifest.short_fingerprint, 0, Precision.FP32, (), (names_part,)).size
    began = time.perf_counter()
    with one_blas_thread():
        settings = AdaptSettings(method=method)
        if method == "auto":
            settings, _, made = choose(shots, settings, rest)
        else:
            kind = METHODS[method]
            assert issubclass(kind, ClosedForm)
            made = kind(shots, settings.method_settings)
        assert made is not None
        (tensors, sections), seen = made.result(), expected(made)
    pack = Pack(backbone.manifest.short_fingerprint, made.number, Precision.FP32, tensors, (*sections, names_part))
    return Pack.decode(pack.encode()), seen, time.perf_counter() - began


def accuracy(backbone: Backbone, pack: Pack, data: Data) -> float:
    """On the test photos."""
    return float((Classifier(backbone, pack).logits(data.photos).argmax(axis=1) == data.labels).mean())


def area(own: Array, others: Array) -> float:
    """Area under the curve: how often one of `own` is above one of `others`."""
    return float((own[:, None] > others).mean() + (own[:, None] == others).mean() / 2)


def cells(backbone: Backbone, sets: dict[str, Data], draws: int) -> Iterator[dict[str, Any]]:
    """One row a set, number of photos and draw."""
    for name, data in sets.items():
        for count in SHOTS:
            for seed in range(draws if len(data.names) < MANY else 1):
                shots = data.draw(count, seed)
                pack, seen, seconds = learned(backbone, shots, data.names)
                row = {
                    "set": name,
                    "shots": count,
                    "seed": seed,
                    "classes": len(data.names),
                    "bytes": pack.size,
                    "seconds": seconds,
                }
                row |= {"auto": accuracy(backbone, pack, data), "method": METHODS.name(pack.method)}
                row["qres"] = accuracy(backbone, learned(backbone, shots, data.names, "qres")[0], data)
                row["logistic"] = float(regression(shots).score(data.photos, data.labels))
                row["zero-shot"] = float(((data.photos @ shots.by_hand.T).argmax(axis=1) == data.labels).mean())
                row["within"] = None if seen is None else abs(seen.accuracy - row["auto"]) <= seen.margin
                if count == max(SHOTS):
                    strangers = np.concatenate([other.photos[:STRANGERS] for key, other in sets.items() if key != name])
                    row |= knowing(backbone, pack, data, strangers)
                if count >= 8:
                    row |= split(backbone, data, count, seed)
                yield row


def knowing(backbone: Backbone, pack: Pack, data: Data, strangers: Array) -> dict[str, float]:
    """How well it tells other sets' photos, and what its threshold costs."""
    task = Classifier(backbone, pack)
    right = task.logits(data.photos).argmax(axis=1) == data.labels
    if not task.tells_unknown:
        return {}
    lost = float((~task.knows(data.photos[right])).mean())
    return {"far": area(task.familiarity(data.photos), task.familiarity(strangers)), "lost": lost}


def split(backbone: Backbone, data: Data, count: int, seed: int) -> dict[str, float]:
    """Base and new classes, and how well it tells them apart."""
    base, mine = data.half()
    shots, found = base.draw(count, seed), {}
    for method in ("auto", "qres"):
        pack = learned(backbone, shots, base.names, method)[0]
        task = Classifier(backbone, pack, data.names)
        right = task.logits(data.photos).argmax(axis=1) == data.labels
        on, new = float(right[mine].mean()), float(right[~mine].mean())
        found[f"joint {method}"] = 2 * on * new / (on + new) if on + new else 0.0
        alone = Classifier(backbone, pack)
        if alone.tells_unknown:
            found["near"] = area(alone.familiarity(data.photos[mine]), alone.familiarity(data.photos[~mine]))
    return found


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: means over sets of the means over draws."""

    def mean(column: str, chosen: list[dict[str, Any]]) -> float | None:
        by_set: dict[str, list[float]] = {}
        for row in chosen:
            if row.get(column) is not None:
                by_set.setdefault(row["set"], []).append(float(row[column]))
        return statistics.mean(map(statistics.mean, by_set.values())) if by_set else None

    def shown(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f}"

    columns = ("auto", "logistic", "qres", "zero-shot", "within", "joint auto", "joint qres", "far", "near", "lost")
    titles = (
        "auto",
        "logistic regression",
        "qres",
        "zero-shot",
        "within its margin",
        "joint H",
        "of qres",
        "AUROC far",
        "near",
        "lost",
    )
    lines = [f"| photos a class | {' | '.join(titles)} | seconds |", "|---" * (len(titles) + 2) + "|"]
    for count in SHOTS:
        chosen = [row for row in rows if row["shots"] == count]
        seconds = statistics.median(row["seconds"] for row in chosen if row["classes"] <= 10)
        lines.append(f"| {count} | {' | '.join(shown(mean(each, chosen)) for each in columns)} | {seconds:.2f} |")
    lines += [
        "",
        f"| set | bytes | {' | '.join(f'auto, logistic at {count}' for count in SHOTS)} |",
        "|---" * (len(SHOTS) + 2) + "|",
    ]
    for name in dict.fromkeys(row["set"] for row in rows):
        mine = [row for row in rows if row["set"] == name]
        pairs = [
            ", ".join(shown(mean(each, [row for row in mine if row["shots"] == count])) for each in ("auto", "logistic"))
            for count in SHOTS
        ]
        lines.append(f"| {name} | {max(row['bytes'] for row in mine)} | {' | '.join(pairs)} |")
    return lines


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", type=Path)
    parser.add_argument("--backbone", default="nano")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    backbone = Backbone.open(options.backbone)
    folders = [each for each in sorted(options.datasets.iterdir()) if (each / "train").is_dir()]
    sets = {folder.name: Data.of(backbone, folder) for folder in folders}
    rows = list(cells(backbone, sets, options.draws))
    if options.json:
        print("\n".join(map(json.dumps, rows)))
    else:
        publish("head", table(rows), "scikit-learn", out=options.out)


if __name__ == "__main__":
    main()
