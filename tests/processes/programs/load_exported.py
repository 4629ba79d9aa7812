"""Loads what was exported where there is no distrain, and writes down what it makes of an image.

load_exported.py IMAGE.npy SAVED_MODEL FILE.keras OUTPUT.npz
"""

from __future__ import annotations

import importlib.util
import sys

import keras
import numpy as np
import tensorflow as tf

for package in ("distrain", "horovod", "mpi4py", "pydantic"):
    assert importlib.util.find_spec(package) is None, f"{package} is here"

image = np.load(sys.argv[1])
served = tf.saved_model.load(sys.argv[2])
(kind,) = served.serve(image).keys()
loaded = keras.models.load_model(sys.argv[3])
np.savez(sys.argv[4], saved_model=served.serve(image)[kind], keras=loaded(image, training=False))
print(kind)
