"""Callbacks for `fit`: Horovod's, and more."""

from distrain.keras.callbacks.broadcast import BroadcastGlobalVariablesCallback
from distrain.keras.callbacks.checkpoint import CheckpointCallback
from distrain.keras.callbacks.gradients import GradientStatisticsCallback
from distrain.keras.callbacks.learning_rate import LearningRateScheduleCallback, LearningRateWarmupCallback
from distrain.keras.callbacks.metrics import MetricAverageCallback

__all__ = [
    "BroadcastGlobalVariablesCallback",
    "CheckpointCallback",
    "GradientStatisticsCallback",
    "LearningRateScheduleCallback",
    "LearningRateWarmupCallback",
    "MetricAverageCallback",
]
