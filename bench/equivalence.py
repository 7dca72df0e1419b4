"""The gate before the clock: a case that does not deliver the right pixels and labels is not timed.

The very spec that is timed is walked for one epoch, augmentation included: every sample exactly once, its own label with
it, shape, dtype and range as stated. Which image an image is, its pixels tell (``identity``), never its place in the order.
The next epoch must begin with other samples, and is walked whole where it comes from a cache. Where the pipeline augments,
a second pass without augmentation compares pixels with the reference; where the model does, its layers are tried.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.causes import Expected, expected, named_causes
from bench.entrance import wrong_layers
from bench.identity import Alignment, Rings, align, augmented_otherwise, fingerprints
from bench.record import Pixels
from bench.samples import References, subset
from bench.scaling import unscale
from loaders import LOADERS
from loaders.base import Feed, LoaderSpec
from storage import open_dataset
from storage.errors import FeedbenchError, UsageError

Delivered = NDArray[np.float32]
Keep: TypeAlias = Callable[[str, NDArray[np.uint8], NDArray[np.uint8], str], None]

CANDIDATES = 8
ENOUGH = 10
"""Samples whose order tells one epoch from another: by chance they come in the same one in 3.6 million times."""
ONE_IMAGE_DB = 10
"""How far the PSNR of a single image may fall below what is allowed for all of them."""
UNDONE: dict[str, Callable[[Delivered], Delivered]] = {
    "flipped": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "with its channels in reverse order": lambda image: image[..., ::-1],
}
"""Mistakes that leave an image recognisable, and what makes them good again."""


class NotEquivalentError(FeedbenchError):
    """A loader does not deliver the stored samples: what is wrong, and with which sample."""


def prove(
    path: Path, split: str, loader: str, spec: LoaderSpec, *, limit: int | None = None, keep: Keep | None = None
) -> Pixels:
    """Prove that ``loader`` delivers the samples of a stored split under ``spec``; say how its pixels compare.

    A split of more than ``limit`` samples is proven on a seeded subset of that many, stored anew in the same format, and on
    the first batches of the split itself. Raises NotEquivalentError with the reason. ``keep`` is given one image as it was
    delivered: the sample's key, its pixels and the reference's (uint8), and the cause if pixels differ.
    """
    with subset(path, split, limit, spec.seed) as part:
        if part != path:
            _first_batches(path, split, loader, spec)
        return _prove_all(part, split, loader, spec, keep)


def _prove_all(path: Path, split: str, loader: str, spec: LoaderSpec, keep: Keep | None) -> Pixels:
    with open_dataset(path, split) as dataset:
        reason = LOADERS[loader].unsupported(dataset.info, spec)
        if reason:
            raise UsageError(f"{loader} cannot serve {path}: {reason}")
        causes = named_causes(LOADERS[loader], dataset.info, spec)
        wanted = expected(causes, spec.resize)
        references = References.of(dataset, spec, wanted)
    if spec.augment and spec.placement == "pipeline":
        _walked(_Walk(references, wanted, spec, augmented=True), path, split, loader)
        spec = replace(spec, augment=False)
    walk = _Walk(references, wanted, spec, augmented=False)
    _walked(walk, path, split, loader)
    pixels = walk.pixels("; ".join(cause.name for cause in causes))
    if keep is not None and walk.shown is not None:
        index, image = walk.shown
        keep(references.keys[index], image, references.pixels[index], pixels.cause)
    return pixels


def _walked(walk: _Walk, path: Path, split: str, loader: str) -> None:
    """One epoch, whole, and the next: whole if it comes from a cache, else as far as its order tells them apart."""
    spec, again = walk.spec, _Walk(walk.references, walk.wanted, walk.spec, walk.augmented)
    with closing(_built(path, split, loader, spec, len(walk.references) + walk.references.unreadable)) as feed:
        fault = wrong_layers(feed.layers, spec)
        if fault:
            raise NotEquivalentError(f"{loader}: {fault}")
        walk.run(loader, _batches(loader, feed, spec, 0))
        again.run(loader, _batches(loader, feed, spec, 1), None if spec.cache else ENOUGH)
    if spec.shuffle and again.order() == walk.order()[: again.delivered] and len(set(again.order())) >= ENOUGH:
        raise NotEquivalentError(f"{loader}: one epoch comes in the order of the one before, and shuffle=True was asked for")


def _first_batches(path: Path, split: str, loader: str, spec: LoaderSpec, count: int = 3) -> None:
    with open_dataset(path, split) as dataset:
        samples = len(dataset)
    with closing(_built(path, split, loader, spec, samples)) as feed:
        for _, (images, _) in zip(range(count), _batches(loader, feed, spec, 0), strict=False):
            if len(images) != spec.batch_size:
                raise NotEquivalentError(
                    f"{loader}: a batch of {len(images)} images, where {spec.batch_size} were asked for"
                )


def _built(path: Path, split: str, loader: str, spec: LoaderSpec, samples: int) -> Feed:
    """A feed over ``samples`` readable samples or more, whose length is as it should be."""
    feed = LOADERS[loader].build(open_dataset(path, split), spec)
    full, rest = divmod(samples, spec.batch_size)
    length = full + (rest > 0 and not spec.drop_remainder)
    if spec.on_error == "stop" and len(feed) != length:
        feed.close()
        raise NotEquivalentError(f"{loader}: len() is {len(feed)}; {samples} samples make {length} batches")
    return feed


def _batches(loader: str, feed: Feed, spec: LoaderSpec, epoch: int) -> Iterator[tuple[Delivered, NDArray[np.int64]]]:
    """The batches of one epoch, each checked for shape, dtype and range: images in levels of 0 to 255, and labels."""
    for images, labels in feed.epoch(epoch):
        yield _checked(loader, spec, np.asarray(images), np.asarray(labels))


def _checked(
    loader: str, spec: LoaderSpec, images: NDArray[np.generic], labels: NDArray[np.generic]
) -> tuple[Delivered, NDArray[np.int64]]:
    dtype = "float32" if spec.placement == "pipeline" else spec.dtype
    shape = (len(images), *spec.image_size, 3)
    if images.shape != shape or images.dtype != dtype or not 0 < len(images) <= spec.batch_size:
        raise NotEquivalentError(
            f"{loader}: a batch of images is {images.dtype} {images.shape}; expected {dtype} {shape}, "
            f"at most {spec.batch_size} of them"
        )
    if labels.shape != (len(images),) or labels.dtype != np.int64:
        raise NotEquivalentError(f"{loader}: labels are {labels.dtype} {labels.shape}; expected int64 ({len(images)},)")
    levels = unscale(images, spec.scaling) if spec.placement == "pipeline" else np.asarray(images, np.float32)
    low, high = float(levels.min()), float(levels.max())
    if not (-0.5 <= low <= high <= 255.5):
        raise NotEquivalentError(
            f"{loader}: values, scaling {spec.scaling!r} undone, run from {low:.1f} to {high:.1f}; expected 0 to 255"
        )
    return levels, np.asarray(labels, np.int64)


@dataclass
class _Walk:
    """One epoch, matched with the references image by image."""

    references: References
    wanted: Expected
    spec: LoaderSpec
    augmented: bool
    delivered: int = 0
    edges: list[tuple[int, int]] = field(default_factory=list)
    best: list[tuple[int, int]] = field(default_factory=list)
    alignments: list[Alignment] = field(default_factory=list)
    largest: float = 0.0
    absolute: float = 0.0
    squared: float = 0.0
    squared_from_expected: float = 0.0
    absolute_from_expected: float = 0.0
    values: int = 0
    shown: tuple[int, NDArray[np.uint8]] | None = None
    """One image as it was delivered, and which it is: the first by name, of those that came."""

    def run(self, loader: str, batches: Iterator[tuple[Delivered, NDArray[np.int64]]], enough: int | None = None) -> None:
        """Match what comes, or the batches with the first ``enough`` samples of it."""
        rings = Rings(self.spec.image_size)
        total = len(self.references)
        due = total - total % self.spec.batch_size if self.spec.drop_remainder else total
        for images, labels in batches:
            unrolled = rings.unroll(images)
            prints = fingerprints(unrolled)
            for image, label, rolled, fingerprint in zip(images, labels, unrolled, prints, strict=True):
                self._identify(loader, image, int(label), rolled, fingerprint)
                self.delivered += 1
            if self.delivered > total:
                raise NotEquivalentError(f"{loader}: more than {total} samples in one epoch over {total}")
            if enough is not None and self.delivered >= enough:
                break
        if self.delivered != due and (enough is None or self.delivered < enough):
            raise NotEquivalentError(f"{loader}: {self.delivered} samples in an epoch; expected {due}")
        self._no_sample_twice(loader)
        fault = augmented_otherwise(self.alignments) if self.augmented else None
        if fault:
            raise NotEquivalentError(f"{loader}: {fault}")

    def order(self) -> list[int]:
        """Which samples came, in order; of copies, the first."""
        return [index for index, _ in self.best]

    def _identify(
        self, loader: str, image: Delivered, label: int, rolled: NDArray[np.float32], fingerprint: NDArray[np.float32]
    ) -> None:
        """Score the likeliest references; those as good as the best, with the label that came, are possible."""
        references = self.references
        candidates = references.nearest(fingerprint, CANDIDATES)
        if self.augmented:
            alignments = [align(rolled, references.unrolled(c)) for c in candidates]
            scores = np.array([alignment.residual for alignment in alignments])
        else:
            scores = np.array([float(np.abs(image - references.expected[c]).mean()) for c in candidates])
        first = int(np.argmin(scores))
        best = candidates[first]
        if scores[first] > 3 + 0.5 * references.contrast(best):
            raise NotEquivalentError(
                f"{loader}: sample {self.delivered} of the epoch is no stored image; the likest, {references.keys[best]}, "
                f"differs by {scores[first]:.1f} levels on average{self._wrongly(image, scores[first])}"
            )
        as_good = [c for c, score in zip(candidates, scores, strict=True) if score <= 1.2 * scores[first] + 0.1]
        members = [m for c in as_good for m in references.copies(c)]
        self.best.append((best, label))
        self.edges += [(self.delivered, m) for m in members if references.labels[m] == label]
        if not any(references.labels[m] == label for m in members):
            known = sorted({int(references.labels[m]) for m in members})
            raise NotEquivalentError(
                f"{loader}: {references.keys[best]} came with label {label}; expected {' or '.join(map(str, known))}"
            )
        if self.augmented:
            if references.contrast(best) > 4:
                self.alignments.append(alignments[first])
        else:
            self._compare(loader, image, best)

    def _wrongly(self, image: Delivered, residual: float) -> str:
        """Which stored image it would be, were it not for a common mistake: closer by half, and within 3 levels. Else nothing."""
        rings, references = Rings(self.spec.image_size), self.references
        for mistake, undone in UNDONE.items():
            likest = undone(image)
            fingerprint = fingerprints(rings.unroll(likest[np.newaxis]))[0]
            for candidate in references.nearest(fingerprint, CANDIDATES):
                if float(np.abs(likest - references.expected[candidate]).mean()) < min(3, residual / 2):
                    return f"; {mistake}, it is {references.keys[candidate]}"
        return ""

    def _compare(self, loader: str, image: Delivered, index: int) -> None:
        """Pixels against the reference, and against what the named causes make of it."""
        levels = np.rint(image)
        if float(np.abs(image - levels).max()) > 0.01 and self.spec.dtype != "float32":
            raise NotEquivalentError(
                f"{loader}: {self.references.keys[index]} was not rounded to whole levels after the resize"
            )
        difference = np.abs(levels - self.references.pixels[index])
        from_wanted = np.abs(levels - self.references.expected[index])
        if min(difference.max(), from_wanted.max()) > self.wanted.largest:
            raise NotEquivalentError(
                f"{loader}: {self.references.keys[index]} differs by up to {from_wanted.max():.0f} levels from filter "
                f"{self.wanted.filter!r}; at most {self.wanted.largest:.0f} have a named cause"
                f"{self._wrongly(image, float(from_wanted.mean()))}"
            )
        psnr = _psnr(float(min((difference**2).mean(), (from_wanted**2).mean())))
        least = self.wanted.psnr_db - ONE_IMAGE_DB
        if psnr is not None and psnr < least:
            raise NotEquivalentError(
                f"{loader}: {self.references.keys[index]} differs by a PSNR of {psnr:.1f} dB from filter {self.wanted.filter!r}; "
                f"at least {least:.0f} dB have a named cause"
            )
        if self.shown is None or self.references.keys[index] < self.references.keys[self.shown[0]]:
            self.shown = index, np.clip(levels, 0, 255).astype(np.uint8)
        self.largest = max(self.largest, float(difference.max()))
        self.absolute += float(difference.sum())
        self.squared += float((difference**2).sum())
        self.absolute_from_expected += float(from_wanted.sum())
        self.squared_from_expected += float((from_wanted**2).sum())
        self.values += difference.size

    def _no_sample_twice(self, loader: str) -> None:
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import maximum_bipartite_matching

        rows, columns = np.array(sorted(set(self.edges))).T
        graph = csr_array((np.ones(len(rows)), (rows, columns)), shape=(self.delivered, len(self.references)))
        if (maximum_bipartite_matching(graph, perm_type="column") >= 0).all():
            return
        self._same_labels(loader)
        counts = np.bincount([self.references.copies(index)[0] for index, _ in self.best], minlength=len(self.references))
        due = np.bincount([self.references.copies(i)[0] for i in range(len(self.references))], minlength=len(counts))
        wrong = [i for i in np.argsort(due - counts) if counts[i] > due[i]] or [int(np.argmax(np.abs(counts - due)))]
        missing = [self.references.keys[i] for i in np.flatnonzero(counts < due)[:3]]
        raise NotEquivalentError(
            f"{loader}: {self.references.keys[wrong[0]]} came {counts[wrong[0]]} times in an epoch, expected {due[wrong[0]]}"
            + (f"; missing: {', '.join(missing)}" if missing and self.delivered == len(self.references) else "")
        )

    def _same_labels(self, loader: str) -> None:
        """Of copies, each label as often as it is stored."""
        came: dict[int, list[int]] = defaultdict(list)
        for index, label in self.best:
            came[index].append(label)
        for index, labels in came.items():
            due = sorted(int(self.references.labels[i]) for i in self.references.copies(index))
            if len(labels) == len(due) and sorted(labels) != due:
                raise NotEquivalentError(
                    f"{loader}: the copies of {self.references.keys[index]} came with labels {sorted(labels)}; expected {due}"
                )

    def pixels(self, causes: str) -> Pixels:
        """The verdict. Raises NotEquivalentError if the causes allow less than what was seen."""
        squared = self.squared / self.values
        expected_mean = self.absolute_from_expected / self.values
        psnr = _psnr(self.squared_from_expected / self.values)
        if self.largest > 1 and (expected_mean > self.wanted.mean or (psnr is not None and psnr < self.wanted.psnr_db)):
            raise NotEquivalentError(
                f"pixels differ by {expected_mean:.2f} levels on average (PSNR {psnr:.1f} dB) from what {causes} explains; "
                f"at most {self.wanted.mean:.2f} levels and at least {self.wanted.psnr_db:.0f} dB are allowed"
            )
        return Pixels(
            verdict="identical" if self.largest <= 1 else "differs",
            cause=causes if self.largest > 1 else "",
            mean_difference=self.absolute / self.values,
            largest_difference=self.largest,
            psnr_db=_psnr(squared),
            samples_checked=self.delivered,
        )


def _psnr(mean_square: float) -> float | None:
    """Decibels; None for no difference at all."""
    return float(10 * np.log10(255**2 / mean_square)) if mean_square else None
