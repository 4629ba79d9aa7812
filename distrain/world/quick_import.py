"""Importing TensorFlow without what training does not need: in every worker, at every start."""

from __future__ import annotations

import sys

# Keras takes these where it finds them, for plots, boxes on images and data frames in `fit`: a quarter of the time that
# importing TensorFlow takes.
OPTIONAL = ("matplotlib", "pandas", "cv2")


def import_tensorflow() -> None:
    """Import TensorFlow and Keras; to Keras what is `OPTIONAL` seems not to be installed, to all others it stays."""
    hidden = [name for name in OPTIONAL if name not in sys.modules]
    # How Python is told that a module cannot be imported.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is meant
    try:
        import tensorflow as tf

        # Loaded at the first use, else.
        tf.keras.Variable  # noqa: B018
    finally:
        for name in hidden:
            del sys.modules[name]
