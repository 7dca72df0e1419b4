"""TensorFlow without what it says about the machine each time it is loaded, which no setting of its own silences."""

from __future__ import annotations

import os
import sys
import tempfile


def load_tensorflow() -> None:
    """Import TensorFlow and Keras, if they are not there yet; what is written to standard error meanwhile is shown only if
    they fail. Later messages start at warnings."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "tensorflow" in sys.modules and "keras" in sys.modules:
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import keras  # noqa: F401
            import tensorflow as tf

            tf.config.list_physical_devices()  # It also says what it finds when it first looks.
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
