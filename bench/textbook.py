"""``tf.data`` as tutorials write it, autotuned throughout, for comparison: ``python -m bench.textbook ROOT SIZE BATCH THREADS``.

Speaks the protocol of ``bench.contender``. Not a loader of this project: it decodes with TensorFlow's fast DCT, has no numbered
epochs, and half of its epochs can run at half speed; ``tfdata`` is what it becomes with care. THREADS is not heeded: it tunes itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.contender import serve
from storage import console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    root: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    size: Annotated[int, typer.Argument(min=1)],
    batch: Annotated[int, typer.Argument(min=1)],
    threads: Annotated[int, typer.Argument(min=1)],
    seconds: Annotated[float, typer.Option(min=0)] = 1.0,
) -> None:
    """Do whole epochs for each line on standard input, and say how many images took how long."""
    del threads
    import tensorflow as tf

    folder = root / "train" if (root / "train").is_dir() else root
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = [(str(file), label) for label, name in enumerate(classes) for file in sorted((folder / name).glob("*.jp*g"))]
    paths, labels = zip(*files, strict=True)

    def load(path: Any, label: Any) -> Any:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.cast(tf.image.resize(image, (size, size)), tf.uint8), label

    dataset = (
        tf.data.Dataset.from_tensor_slices((list(paths), list(labels)))
        .shuffle(len(paths))
        .map(load, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch)
        .prefetch(tf.data.AUTOTUNE)
    )

    def epoch(_: int) -> Iterator[tuple[Any, Any]]:
        return iter(dataset)

    serve(epoch, seconds)


if __name__ == "__main__":
    console.run(app, "python -m bench.textbook")
