"""Under Keras 3 Horovod's wrappers for optimizers refuse, instead of training without averaging."""

from __future__ import annotations

import keras
import pytest


def test_an_optimizer_of_keras_3_is_refused() -> None:
    import horovod.keras
    import horovod.tensorflow
    import horovod.tensorflow.keras

    assert keras.__version__.startswith("3.")
    for module in (horovod.keras, horovod.tensorflow, horovod.tensorflow.keras):
        with pytest.raises(NotImplementedError, match=r"Keras 3, such as keras.*SGD.*DistributedGradientTape"):
            module.DistributedOptimizer(keras.optimizers.SGD())
    with pytest.raises(NotImplementedError, match="Keras 3"):
        horovod.keras.PartialDistributedOptimizer(keras.optimizers.SGD())
    with pytest.raises(NotImplementedError, match="Keras 3"):
        horovod.tensorflow.keras.load_model("there is none")
