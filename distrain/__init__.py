"""distrain: distributed training of Keras models on Horovod."""

__version__ = "0.1.0"
