"""What is wrong with some photos, and what would help most: each finding names its files, the worst first."""

from __future__ import annotations

from dataclasses import dataclass

from edge_qprompt.learn.doctor.growth import Growth
from edge_qprompt.photos import Source


@dataclass(frozen=True)
class Seen:
    """A photo that could be read.

    Attributes:
        path: its file, or the photo in memory.
        label: name of its class.
        split: "train" or "test".
        digest: SHA-256 of its bytes.
    """

    path: Source
    label: str
    split: str
    digest: bytes


@dataclass(frozen=True)
class Mislabelled:
    """A photo whose label is likely wrong.

    Attributes:
        photo: the photo.
        likely: name of the class that it shows more likely.
        probability: that its label is wrong, 0 to 1.
    """

    photo: Seen
    likely: str
    probability: float


@dataclass(frozen=True)
class Twins:
    """Photos that are the same.

    Attributes:
        photos: two or more.
        exact: whether they have the same bytes; else they look nearly the same.
    """

    photos: tuple[Seen, ...]
    exact: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of their classes, each once."""
        return tuple(dict.fromkeys(photo.label for photo in self.photos))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that they are in, each once."""
        return tuple(dict.fromkeys(photo.split for photo in self.photos))

    @property
    def harm(self) -> str:
        """The worst that is so: "two classes", "train and test" or "twice"."""
        return "two classes" if len(self.labels) > 1 else "train and test" if len(self.splits) > 1 else "twice"


@dataclass(frozen=True)
class Overlap:
    """Two classes that are taken for each other.

    Attributes:
        names: of the two.
        confused: photos of either that are taken for the other, when left out.
        photos: of both.
    """

    names: tuple[str, str]
    confused: int
    photos: int

    @property
    def share(self) -> float:
        """Of the photos of both, 0 to 1."""
        return self.confused / self.photos


@dataclass(frozen=True)
class Poor:
    """A photo that shows too little.

    Attributes:
        photo: the photo.
        fault: "small" or "blank".
        detail: its size, or how little its grey levels vary, in words.
    """

    photo: Seen
    fault: str
    detail: str


@dataclass(frozen=True)
class Rare:
    """A class with far fewer training photos than the others.

    Attributes:
        name: of the class.
        photos: that it has.
        usual: the median of all classes.
    """

    name: str
    photos: int
    usual: float


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with some photos, and what would help most.

    Attributes:
        names: of the classes.
        photos: that could be read.
        unreadable: each photo that could not, and why.
        mislabelled: photos whose labels are likely wrong, the likeliest first.
        wrong_share: share of all labels that are wrong, as estimated; None where it cannot be known.
        twins: photos that are there twice, those of two classes first, then those of train and test.
        poor: photos that are too small or blank.
        overlaps: classes that are taken for each other, those of most photos first.
        rare: classes with far fewer training photos than the others, the fewest first.
        growth: accuracy over photos a class, and which classes gain most; None where it cannot be known.
        accuracy: share of the photos that are labelled right when left out, 0 to 1; None where it cannot be known.
        unknown: a sentence for each thing that these photos cannot tell.
        seconds: by stage.
    """

    names: tuple[str, ...]
    photos: int
    unreadable: tuple[tuple[Source, str], ...]
    mislabelled: tuple[Mislabelled, ...]
    wrong_share: float | None
    twins: tuple[Twins, ...]
    poor: tuple[Poor, ...]
    overlaps: tuple[Overlap, ...]
    rare: tuple[Rare, ...]
    growth: Growth | None
    accuracy: float | None
    unknown: tuple[str, ...]
    seconds: dict[str, float]

    def __repr__(self) -> str:
        found = {
            "unreadable": self.unreadable,
            "likely mislabelled": self.mislabelled,
            "twins": self.twins,
            "too small or blank": self.poor,
            "overlapping classes": self.overlaps,
            "rare classes": self.rare,
        }
        said = ", ".join(f"{len(each)} {name}" for name, each in found.items() if each) or "nothing wrong"
        return f"<Diagnosis of {self.photos} photos of {len(self.names)} classes: {said}>"
