"""Decoding in plain Python threads, by C libraries that let go of Python's lock: simplejpeg, and a compiled resize.

Threads that live as long as the feed take a few images at a time and fill batches that are already in memory; ``prefetch``
batches are kept ready. No process, no copy between processes, no graph. Order: over all samples where the format has random
access; for TFRecord, shards in random order, and within a window of neighbouring shards all samples (option ``window``).

Handed over as ``tf.data`` (the default), or as a ``keras.utils.PyDataset`` (option ``hand_over=pydataset``), whose batches
Keras' own threads make.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loaders.base import STAGES, Feed, LoaderSpec, Stage
from loaders.sample import options_of
from loaders.threads import Options, Threads
from storage.base import DatasetInfo

if TYPE_CHECKING:
    from storage.dataset import StoredDataset


class ThreadedLoader:
    """See the module."""

    name = "threaded"
    stages = STAGES
    options = Options

    def unsupported(self, info: DatasetInfo, spec: LoaderSpec) -> str | None:
        """Raw images of another size; skipping in a PyDataset, which says beforehand how many batches there are."""
        if info.payload == "raw" and info.image_size != spec.image_size:
            return f"the stored images are {info.image_size}, and image_size is {spec.image_size}"
        if spec.on_error == "skip" and options_of(Options, spec).hand_over == "pydataset":
            return "a PyDataset says beforehand how many batches there are, so it cannot skip: use hand_over=tf.data"
        return None

    def build(self, dataset: StoredDataset, spec: LoaderSpec, *, until: Stage = Stage.HAND_OVER) -> Feed:
        """Threads behind a feed."""
        import cv2

        from loaders.threaded_feeds import ThreadedDataset, ThreadedSequence

        cv2.setNumThreads(0)  # one thread an image; OpenCV's own would wait for each other
        options = options_of(Options, spec)
        threads = Threads(dataset, spec, options, until)
        return ThreadedSequence(threads) if options.hand_over == "pydataset" else ThreadedDataset(threads)


LOADER = ThreadedLoader()
