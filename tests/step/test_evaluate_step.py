"""The evaluation step against NumPy: losses per example, counts of classes, predictions."""

from __future__ import annotations

import numpy as np
import pytest

from distrain.data.provider import ExampleSpec
from distrain.step.evaluate_step import build_evaluate_step
from tests.small_models import SPEC, make_examples, make_trained

PIXELS = ExampleSpec((20, 21, 1), (20, 21), 3)
UNET = {"name": "unet", "layers": 2, "features": 2, "keep_probability": 0.5}


@pytest.mark.parametrize("segmentation", [True, False])
def test_losses_counts_and_predictions(segmentation: bool) -> None:
    spec = PIXELS if segmentation else SPEC
    trained = make_trained(UNET if segmentation else "convolution", spec=spec)
    images, labels = make_examples(5, spec=spec)
    losses, confusion, predicted = build_evaluate_step(trained, spec)(images, labels)
    logits = trained.model(images, training=False).numpy()
    if segmentation:
        assert logits.shape == (5, 4, 4, 3)
        labels = labels[:, 8:12, 8:12]  # the centre; of an odd rest the smaller half is cut first
    log_softmax = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    picked = -np.take_along_axis(log_softmax, labels[..., None].astype(np.int64), axis=-1)
    np.testing.assert_allclose(losses, picked.reshape(5, -1).mean(axis=1), rtol=1e-12)
    assert np.array_equal(predicted, logits.argmax(axis=-1))
    counted = np.zeros((3, 3), np.int64)
    np.add.at(counted, (labels, logits.argmax(axis=-1)), 1)
    assert np.array_equal(confusion, counted)
    assert losses.dtype == "float64"
    assert confusion.dtype == "int64"


def test_it_is_traced_once_and_changes_nothing() -> None:
    trained = make_trained("batch_norm")
    before = [weight.numpy().tobytes() for weight in trained.model.weights]
    step = build_evaluate_step(trained, SPEC)
    for count in (1, 4, 2):
        step(*make_examples(count))
    assert [weight.numpy().tobytes() for weight in trained.model.weights] == before
    assert step.experimental_get_tracing_count() == 1  # type: ignore[attr-defined]  # a tf.function


def test_an_examples_loss_does_not_depend_on_its_batch() -> None:
    step = build_evaluate_step(make_trained("batch_norm"), SPEC)
    images, labels = make_examples(4)
    alone = [float(step(images[i : i + 1], labels[i : i + 1])[0][0]) for i in range(4)]
    np.testing.assert_allclose(step(images, labels)[0], alone, rtol=1e-12)
