"""Image features of photos, computed once: each view of each photo, cached by content.

A view is 0, the centre crop that inference sees, or k > 0, a random resized crop that depends on
nothing but the photo's bytes, the seed and k. So a feature is a function of its key, and the cache
may be kept, shared or deleted at will. Symbols: N photos, V views, D dimensions of a feature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_qprompt.backbone import DEFAULT_PRECISION, Backbone, Preprocess
from edge_qprompt.errors import DataError, PhotoError
from edge_qprompt.photos.dataset import Photos
from edge_qprompt.photos.decoder import Decoders, Job
from edge_qprompt.photos.feature_cache import PREFIX, FeatureCache, cache_files, forget_in
from edge_qprompt.photos.photo import normalise
from edge_qprompt.photos.source import AnyPhoto, Source, read, source_of

BATCH = 2  # photos a lane; more win nothing: docs/adr/0007-image-encoder.md
CHUNK_VIEWS = 64  # views decoded before they are encoded; the next chunk is decoded meanwhile
DECODERS = 2  # more threads only take cores from the encoder
CENTRE = 0

Array = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Features:
    """Features of the photos that could be read.

    Attributes:
        values: (N, V, D) float32, unit length.
        kept: (N,) positions of these photos in the list that was asked for.
        digests: (N,) SHA-256 of each photo's bytes, which says whether two are the same; of features that were given, of these.
        skipped: each photo that could not be read, and why.
        from_cache: how many of the N * V features were not computed anew.
    """

    values: Array
    kept: NDArray[np.int64]
    digests: tuple[bytes, ...]
    skipped: tuple[tuple[Source, str], ...]
    from_cache: int


@dataclass(frozen=True)
class Views:
    """Which views of a photo are wanted.

    Attributes:
        count: V >= 1; view 0 is the centre crop, the others are random crops.
        seed: of the random crops.
    """

    count: int = 1
    seed: int = 0

    def crop(self, content: bytes, view: int) -> bytes | None:
        """What `photo.view_of` makes a view of."""
        return None if view == CENTRE else self.key(content, view)

    def key(self, content: bytes, view: int) -> bytes:
        """Key of a view of the photo whose SHA-256 is `content`; the centre crop has no seed. All begin alike: `PREFIX`."""
        own = hashlib.sha256(content + f"{self.seed}/{view}".encode()).digest()
        return content if view == CENTRE else content[:PREFIX] + own[PREFIX:]


@dataclass
class _Photo:
    """A photo on its way: a key a view, and its feature or, while that is missing, its pixels."""

    keys: list[bytes]
    vectors: list[Array | None]
    pixels: dict[int, Array]


def extract(
    backbone: Backbone,
    photos: Sequence[Source],
    *,
    views: Views = Views(),
    strict: bool = False,
    progress: Progress = lambda *_: None,
) -> Features:
    """Features of `photos`, from the cache where it has them.

    Args:
        backbone: the encoder; fingerprint, precision and providers are part of the cache's place.
        photos: files, or photos in memory; those that are no readable photo are skipped and reported.
        views: which views of each.
        strict: raise instead of skipping.
        progress: called with photos done and photos in all.

    Raises:
        PhotoError: with `strict`, for the first photo that cannot be read.
    """
    kept: list[int] = []
    digests: list[bytes] = []
    rows: list[Array] = []
    skipped: list[tuple[Source, str]] = []
    hits, manifest = 0, backbone.manifest
    with FeatureCache(manifest.fingerprint, backbone.feature_kind, manifest.embed_dim) as cache:
        for chunk in _chunks(photos, cache, manifest.preprocess, views):
            readable = [photo for photo in chunk if isinstance(photo, _Photo)]
            hits += sum(vector is not None for photo in readable for vector in photo.vectors)
            _encode_missing(backbone, cache, readable)
            for photo in chunk:
                at = len(kept) + len(skipped)
                if isinstance(photo, _Photo):
                    kept.append(at)
                    digests.append(photo.keys[CENTRE])
                    rows.append(np.array(photo.vectors, np.float32))  # (V, D)
                elif strict:
                    raise photo
                else:
                    skipped.append((photos[at], str(photo)))
            progress(len(kept) + len(skipped), len(photos))
    values = np.array(rows, np.float32).reshape(len(rows), views.count, manifest.embed_dim)  # (N, V, D)
    return Features(values, np.array(kept, np.int64), tuple(digests), tuple(skipped), hits)


def features_of(
    backbone: Backbone,
    photos: Photos,
    *,
    views: Views = Views(),
    strict: bool = False,
    progress: Progress = lambda *_: None,
) -> Features:
    """As `extract`, of photos of a data set, some of which come as features already.

    Raises:
        DataError: features of another encoder, or other views of them are wanted.
    """
    given = photos.features
    if given is None:
        return extract(backbone, photos.paths, views=views, strict=strict, progress=progress)
    if given.shape[1] != backbone.manifest.embed_dim:
        wanted = f"{backbone.manifest.name} has {backbone.manifest.embed_dim}"
        raise DataError(f"the features have {given.shape[1]} dimensions, {wanted}: encode the photos with this backbone")
    if views.count > 1:
        raise DataError(f"{views.count} views of each photo cannot be had from features: leave views at 1, or give the photos")
    digests = tuple(hashlib.sha256(row.tobytes()).digest() for row in given)
    return Features(given[:, None], np.arange(len(given)), digests, (), len(given))


def forget_features(digests: Sequence[bytes]) -> tuple[str, ...]:
    """Take all features of photos, by the SHA-256 of their bytes, out of the caches of all backbones.

    Returns:
        A sentence for each cache that may still have some.
    """
    prefixes = [content[:PREFIX] for content in digests]
    return tuple(said for path in cache_files() if (said := forget_in(path, prefixes)))


def encode_photos(backbone: Backbone, photos: Sequence[AnyPhoto]) -> Array:
    """Image features, for those who learn in a way of their own.

    Args:
        backbone: the encoder.
        photos: N paths, bytes of image files, PIL images, or arrays (H, W, 3) of uint8.

    Returns:
        (N, D) float32, unit length; `adapt` and `evaluate` take them back as a tuple with labels.

    Raises:
        PhotoError: one of them cannot be read.
    """
    sources = [source_of(photo, f"photo {i}") for i, photo in enumerate(photos)]
    return extract(backbone, sources, strict=True).values[:, 0]


def read_views(photos: Sequence[Source], settings: Preprocess, views: Views) -> NDArray[np.uint8]:
    """The views themselves, of photos that `extract` could read: (N, V, 3, S, S), not normalised.

    Raises:
        PhotoError: a photo that cannot be read any more.
    """

    def load(path: Source) -> NDArray[np.uint8]:
        data = read(path)
        content = hashlib.sha256(data).digest()
        crops = tuple(views.crop(content, view) for view in range(views.count))
        return decoders.views(data, Job(str(path), settings, crops))  # (V, 3, S, S)

    found = np.empty((len(photos), views.count, 3, settings.size, settings.size), np.uint8)
    with Decoders() as decoders, ThreadPoolExecutor(DECODERS) as pool:
        for place, view in zip(found, pool.map(load, photos), strict=True):
            place[:] = view
    return found


def _chunks(
    photos: Sequence[Source], cache: FeatureCache, settings: Preprocess, views: Views
) -> Iterator[list[_Photo | PhotoError]]:
    """Photos read and decoded in their order, one chunk ahead of whoever consumes them."""
    size = max(1, CHUNK_VIEWS // views.count)

    def load(path: Source) -> _Photo | PhotoError:
        try:
            return _load(path, decoders, cache, settings, views)
        except PhotoError as error:
            return error

    with Decoders() as decoders, ThreadPoolExecutor(DECODERS) as pool:
        try:
            ahead = [pool.submit(load, path) for path in photos[:size]]
            for start in range(size, len(photos) + size, size):
                current, ahead = ahead, [pool.submit(load, path) for path in photos[start : start + size]]
                yield [future.result() for future in current]
        finally:
            pool.shutdown(cancel_futures=True)


def _load(path: Source, decoders: Decoders, cache: FeatureCache, settings: Preprocess, views: Views) -> _Photo:
    data = read(path)
    content = hashlib.sha256(data).digest()
    keys = [views.key(content, view) for view in range(views.count)]
    photo = _Photo(keys, [cache.get(key) for key in keys], {})
    missing = [view for view, vector in enumerate(photo.vectors) if vector is None]
    if missing:
        crops = tuple(views.crop(content, view) for view in missing)
        found = decoders.views(data, Job(str(path), settings, crops))
        photo.pixels = {view: normalise(pixels, settings) for view, pixels in zip(missing, found, strict=True)}
    return photo


def _encode_missing(backbone: Backbone, cache: FeatureCache, photos: Sequence[_Photo]) -> None:
    """Encode, cache and fill in what the cache did not have."""
    jobs = [(photo, view) for photo in photos for view in photo.pixels]
    # dynamic int8 has one scale a batch, which would make a feature depend on its neighbours
    size = BATCH if backbone.precision == DEFAULT_PRECISION else 1
    batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]

    def encode(batch: Sequence[tuple[_Photo, int]]) -> Array:
        pixels = np.stack([photo.pixels.pop(view) for photo, view in batch])  # (B, 3, S, S)
        # always as many rows, so that a feature does not depend on what else was missing
        padded = np.concatenate([pixels, np.repeat(pixels[-1:], size - len(pixels), axis=0)])
        return backbone.encode_images(padded, lane=True)[: len(batch)]

    with ThreadPoolExecutor(backbone.lanes, "encode") as pool:
        for batch, vectors in zip(batches, pool.map(encode, batches), strict=True):
            cache.put([photo.keys[view] for photo, view in batch], vectors)
            for (photo, view), vector in zip(batch, vectors, strict=True):
                photo.vectors[view] = vector
