"""The job file's keys: types, defaults and a sentence for each, in one place.

Everything is frozen and refuses unknown keys; a run never changes its job. No TensorFlow here: a job is checked before
anything expensive starts.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from distrain.job.duration import Duration

CUSTOM = "package.module:factory"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class Section(BaseModel):
    """What all parts of a job file have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class Custom(Section):
    """A user's own factory; every key beside the name is passed to it as a keyword argument."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, protected_namespaces=())

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _chosen(key: str, default: str | None = None) -> Discriminator:
    """Choose among alternatives by `key`: a built-in's name, or anything with a colon for a user's own."""

    def tag(value: Any) -> str:
        name = value.get(key, default) if isinstance(value, dict) else getattr(value, key, default)
        return CUSTOM if isinstance(name, str) and ":" in name else str(name)

    return Discriminator(tag)


# YAML and JSON write a list where a frozen job holds a tuple.
_Listed = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)


# ---- data


class Circles(Section):
    """Discs under noise, made from (seed, index): no files needed."""

    provider: Literal["circles"]
    examples: int = Field(512, ge=1, description="Number of examples.")
    size: int = Field(172, ge=8, description="Height and width of an image, in pixels.")
    seed: int | None = Field(None, ge=0, lt=2**63, description="Seed of the images; the job's own where left out.")
    discs: int = Field(10, ge=0, description="Discs in an image.")
    radius: Annotated[tuple[int, int], _Listed] = Field((5, 25), description="Smallest and largest radius, in pixels.")
    border: int = Field(20, ge=0, description="Least distance of a disc's centre from the edge, in pixels.")
    noise: float = Field(20.0, ge=0, description="Standard deviation of the noise, in grey levels of 0 to 255.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not 1 <= self.radius[0] <= self.radius[1]:
            raise ValueError(f"radius: expected 1 <= smallest <= largest, got {list(self.radius)}")
        if 2 * self.border >= self.size:
            raise ValueError(f"border: expected less than half of size {self.size}, got {self.border}")
        return self


Paths = Annotated[str | tuple[str, ...], _Listed]


class Files(Section):
    """What all providers that read files have in common."""

    value_range: Annotated[tuple[float, float] | None, _Listed] = Field(
        None, description="Clip grey values to this range before they are scaled to 0..1."
    )
    crop: Annotated[tuple[int, int] | None, _Listed] = Field(
        None, description="Height and width of a crop: random in training, central in validation."
    )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            raise ValueError(f"value_range: expected lowest < highest, got {list(self.value_range)}")
        if self.crop is not None and min(self.crop) < 1:
            raise ValueError(f"crop: expected two positive numbers, got {list(self.crop)}")
        return self


class Labelled(Files):
    """Files whose labels are values."""

    label_values: Annotated[tuple[int, ...] | None, _Listed] = Field(
        None, description="Label values in the order of their classes; 0, 1, ... where left out."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        values, classes = self.label_values, getattr(self, "classes", None)
        if values is not None and len(set(values)) != (len(values) if classes is None else classes):
            expected = f"{classes} different values" if classes is not None else "different values"
            raise ValueError(f"label_values: expected {expected}, got {list(values)}")
        return self


class ImagePairs(Labelled):
    """Image files and label files, paired by sorted order or by name."""

    provider: Literal["image_pairs"]
    images: Paths = Field(description="Images: a folder, a glob, a file, a URL, or a list of these.")
    labels: Paths = Field(description="Labels, in the same way.")
    pair_by: Literal["order", "name"] = Field("order", description="Pair by sorted order, or by the files' stems.")
    classes: int = Field(2, ge=2, description="Number of classes.")


class ClassFolders(Files):
    """Image files in a folder for each class."""

    provider: Literal["class_folders"]
    folder: str = Field(description="The folder with a folder of images for each class.")
    class_names: Annotated[tuple[str, ...] | None, _Listed] = Field(
        None, min_length=2, description="The classes' folders; all that there are, sorted, where left out."
    )


Normalise = Literal["auto", "image", "none"]
_NORMALISE = "Scale each image to 0..1 (image), take values as they are (none), or scale whole numbers only (auto)."


class Arrays(Labelled):
    """NPY files of images and of labels, or NPZ files with both."""

    provider: Literal["arrays"]
    images: Paths | None = Field(None, description="NPY files of images [n, height, width] or with channels behind.")
    labels: Paths | None = Field(None, description="NPY files of labels [n] or [n, height, width], one for each.")
    files: Paths | None = Field(None, description="Or: NPZ files that hold both.")
    image_array: str = Field("images", description="Name of the images in an NPZ file.")
    label_array: str = Field("labels", description="Name of the labels in an NPZ file.")
    classes: int = Field(2, ge=2, description="Number of classes.")
    normalise: Normalise = Field("auto", description=_NORMALISE)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.images is None) != (self.labels is None) or (self.images is None) == (self.files is None):
            given = [name for name in ("images", "labels", "files") if getattr(self, name) is not None]
            raise ValueError(
                f"expected images and labels (NPY), or files (NPZ), got {' and '.join(given) or 'neither'}"
            )
        return self


class HDF5(Labelled):
    """HDF5 files with a dataset of images and one of labels."""

    provider: Literal["hdf5"]
    files: Paths = Field(description="The files: a folder, a glob, a file, a URL, or a list of these.")
    image_array: str = Field("images", description="Path of the images in a file.")
    label_array: str = Field("labels", description="Path of the labels in a file.")
    classes: int = Field(2, ge=2, description="Number of classes.")
    normalise: Normalise = Field("auto", description=_NORMALISE)
    shuffle: int = Field(64, ge=1, description="Examples shuffled among each other where chunks hold several.")


class TFRecords(Labelled):
    """TFRecord shards with an index each (`distrain data index`, `distrain data pack`)."""

    provider: Literal["tfrecords"]
    files: Paths = Field(description="The shards: a folder, a glob, a file, a URL, or a list of these.")
    index: str | None = Field(None, description="Folder of the shards' indices; beside the shards where left out.")
    image: str = Field("image", description="The feature that holds the image: PNG, JPEG or raw bytes.")
    label: str = Field("label", description="The feature that holds the label: whole numbers, or bytes as for images.")
    image_shape: Annotated[tuple[int, int, int] | None, _Listed] = Field(
        None, description="Height, width and channels of raw bytes that do not say so."
    )
    image_dtype: str = Field("uint8", description="Dtype of raw bytes that do not say so.")
    classes: int | None = Field(None, ge=2, description="Number of classes; packed shards know it.")
    normalise: Normalise = Field("auto", description=_NORMALISE)
    shuffle: int = Field(64, ge=1, description="Compressed shards: examples shuffled among each other.")
    lanes: int = Field(4, ge=1, description="Compressed shards: how many are read side by side.")


class CallableProvider(Section):
    """A function of the user's own, provider(n) -> (x, y): which examples it gives is its own affair."""

    provider: Literal["callable"]
    factory: str = Field(pattern=":", description=f"`{CUSTOM}`, called with `options`; returns the function.")
    examples: int = Field(ge=1, description="How many examples count as an epoch.")
    classes: int | None = Field(None, ge=2, description="Number of classes, where labels are whole numbers.")
    options: dict[str, Any] = Field(default_factory=dict, description="Arguments of the factory.")


class CustomProvider(Custom):
    """A user's own provider."""

    provider: str = Field(pattern=":", description=f"`{CUSTOM}`, called with the other keys; returns a provider.")


ProviderChoice = Annotated[
    Annotated[Circles, Tag("circles")]
    | Annotated[ImagePairs, Tag("image_pairs")]
    | Annotated[ClassFolders, Tag("class_folders")]
    | Annotated[Arrays, Tag("arrays")]
    | Annotated[HDF5, Tag("hdf5")]
    | Annotated[TFRecords, Tag("tfrecords")]
    | Annotated[CallableProvider, Tag("callable")]
    | Annotated[CustomProvider, Tag(CUSTOM)],
    _chosen("provider"),
]


class Augment(Section):
    """Random changes to training examples, image and label alike: a function of (seed, epoch, index)."""

    flip_left_right: bool = Field(False, description="Mirror half of the examples left to right.")
    flip_up_down: bool = Field(False, description="Mirror half of the examples upside down.")
    quarter_turns: bool = Field(False, description="Turn by 0, 90, 180 or 270 degrees; images must be square.")
    elastic: float = Field(0.0, ge=0, description="Standard deviation of an elastic deformation's moves, in pixels.")
    elastic_spacing: float = Field(64.0, ge=4, description="Distance of the knots of the deformation, in pixels.")
    brightness: float = Field(0.0, ge=0, description="Add up to so much, or subtract it; images are 0..1.")
    contrast: float = Field(0.0, ge=0, lt=1, description="Stretch about the mean, by 1 - this to 1 + this.")

    @property
    def enabled(self) -> bool:
        """Whether anything is changed at all."""
        moved = self.flip_left_right or self.flip_up_down or self.quarter_turns
        return moved or max(self.elastic, self.brightness, self.contrast) > 0


class Reading(Section):
    """How examples are read; nothing of it changes what is trained on."""

    threads: int = Field(2, ge=0, le=256, description="Threads that read a worker's batches; 0: between its steps.")
    ahead: int = Field(3, ge=1, description="Batches that are read ahead of the step.")
    cache: Literal["none", "memory", "disk"] = Field("none", description="Where to keep examples once read.")
    cache_gigabytes: float = Field(1.0, gt=0, description="How much a worker may keep; the rest is read anew.")
    cache_folder: str | None = Field(None, description="Folder on a local disk; the system's temporary one if unset.")


class Data(Section):
    """Where examples come from."""

    train: ProviderChoice = Field(description="Examples to train on.")
    validation: ProviderChoice | None = Field(None, description="Examples to validate on after each epoch, if any.")
    augment: Augment = Field(default_factory=Augment, description="Random changes to training examples.")
    reading: Reading = Field(default_factory=Reading, description="Threads, reading ahead, cache.")
    on_bad_example: Literal["fail", "skip"] = Field("fail", description="What to do about what cannot be read.")
    max_bad_examples: int = Field(10, ge=0, description="Skipped examples of an epoch beyond which the run ends.")


# ---- model, loss, optimizer


InitFrom = Annotated[
    str | None,
    Field(min_length=1, description="Begin with the weights of a run, of one of its checkpoints, or of a .keras file."),
]


class UNet(Section):
    """The U-Net of 2015. With `valid` padding the output is smaller than the input, and labels are cropped to it."""

    name: Literal["unet"] = "unet"
    layers: int = Field(3, ge=1, le=8, description="Resolutions, the lowest included.")
    features: int = Field(16, ge=1, description="Features of the first resolution; they double with each.")
    kernel: int = Field(3, ge=1, description="Height and width of the convolutions.")
    pool: int = Field(2, ge=2, description="Height and width of the max pooling and of the transposed convolutions.")
    keep_probability: float = Field(0.75, gt=0, le=1, description="Share of activations that dropout keeps.")
    padding: Literal["valid", "same"] = Field("valid", description="Padding of the convolutions.")
    channels: int | None = Field(None, ge=1, description="Channels of the images, where you want them checked.")
    classes: int | None = Field(None, ge=2, description="Number of classes, where you want it checked.")
    init_from: InitFrom = None


class Application(Section):
    """An image classifier of `keras.applications`."""

    name: Literal["application"]
    architecture: str = Field(description="Its name there, such as MobileNetV2 or ResNet50.")
    weights: str | None = Field(None, description="Path of weights to start from; random where left out.")
    options: dict[str, Any] = Field(default_factory=dict, description="Further arguments of the architecture.")
    init_from: InitFrom = None


class CustomModel(Custom):
    """A user's own model."""

    name: str = Field(
        pattern=":", description=f"`{CUSTOM}`, called with the data's spec and the other keys; returns a Keras model."
    )
    init_from: InitFrom = None


ModelChoice = Annotated[
    Annotated[UNet, Tag("unet")] | Annotated[Application, Tag("application")] | Annotated[CustomModel, Tag(CUSTOM)],
    _chosen("name", default="unet"),
]


class CrossEntropy(Section):
    """Cross-entropy of the softmax, averaged over an example's pixels."""

    name: Literal["cross_entropy"] = "cross_entropy"
    class_weights: Annotated[tuple[float, ...] | None, _Listed] = Field(None, description="A factor for each class.")
    l2: float = Field(0.0, ge=0, description="Factor of the sum of squares of all kernels, halved, added to the loss.")


class Dice(Section):
    """1 minus the soft Dice coefficient of an example over all classes."""

    name: Literal["dice"]
    l2: float = Field(0.0, ge=0, description="As for cross_entropy.")


class CustomLoss(Custom):
    """A user's own loss."""

    name: str = Field(
        pattern=":", description=f"`{CUSTOM}`, called with the other keys; returns f(labels, logits) -> [batch]."
    )


LossChoice = Annotated[
    Annotated[CrossEntropy, Tag("cross_entropy")] | Annotated[Dice, Tag("dice")] | Annotated[CustomLoss, Tag(CUSTOM)],
    _chosen("name", default="cross_entropy"),
]


class Decaying(Section):
    """Learning rate with a staircase exponential decay: `learning_rate * decay_rate ** (steps // decay_every)`.

    With `scale_from` it is for batches of so many examples, and multiplied by `batch_size / scale_from`, or by its
    square root. During `warm_up` it rises to that, in equal parts.
    """

    warm_up: Duration | None = Field(None, description="How long the learning rate rises to its first stair.")
    scale_from: int | None = Field(None, ge=1, description="The batch size that `learning_rate` is for; any if unset.")
    scaling: Literal["linear", "sqrt"] = Field("linear", description="How it grows with the batch from there.")
    decay_rate: float = Field(1.0, gt=0, description="Factor of the learning rate at each stair; 1 is no decay.")
    decay_every: Duration = Field(Duration(1, "epoch"), description="Length of a stair.")

    @field_validator("decay_every", "warm_up")
    @classmethod
    def _counted(cls, value: Duration | None) -> Duration | None:
        if value is not None and value.timed:
            raise ValueError(f"expected steps, epochs or examples, got '{value}'")
        return value


class Momentum(Decaying):
    """Gradient descent with momentum."""

    name: Literal["momentum"] = "momentum"
    learning_rate: float = Field(0.2, gt=0, description="Learning rate of the first stair.")
    momentum: float = Field(0.2, ge=0, lt=1, description="Share of the last update that is added to the next.")
    nesterov: bool = Field(False, description="Nesterov's form.")


class Adam(Decaying):
    """Adam."""

    name: Literal["adam"]
    learning_rate: float = Field(0.001, gt=0, description="Learning rate of the first stair.")
    beta_1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta_2: float = Field(0.999, ge=0, lt=1, description="Decay of the second moment.")
    epsilon: float = Field(1e-7, gt=0, description="Added to the denominator.")


class LARS(Decaying):
    """Momentum with a rate fitted to each layer's weights and gradient, for large batches."""

    name: Literal["lars"]
    learning_rate: float = Field(1.0, gt=0, description="Learning rate of the first stair.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Share of the last update that is added to the next.")
    trust: float = Field(0.001, gt=0, description="The part of a layer's norm that a step of learning rate 1 moves.")
    decay: float = Field(0.0, ge=0, description="Factor of the weights that is added to their gradient.")
    nesterov: bool = Field(False, description="Nesterov's form.")


class LAMB(Decaying):
    """Adam with a rate fitted to each layer, for large batches, as Keras has it."""

    name: Literal["lamb"]
    learning_rate: float = Field(0.001, gt=0, description="Learning rate of the first stair.")
    beta_1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta_2: float = Field(0.999, ge=0, lt=1, description="Decay of the second moment.")
    epsilon: float = Field(1e-7, gt=0, description="Added to the denominator.")
    decay: float = Field(0.0, ge=0, description="Part of the weights that a step of learning rate 1 takes off them.")


class CustomOptimizer(Custom):
    """A user's own optimizer."""

    name: str = Field(pattern=":", description=f"`{CUSTOM}`, called with the other keys; returns a Keras optimizer.")


OptimizerChoice = Annotated[
    Annotated[Momentum, Tag("momentum")]
    | Annotated[Adam, Tag("adam")]
    | Annotated[LARS, Tag("lars")]
    | Annotated[LAMB, Tag("lamb")]
    | Annotated[CustomOptimizer, Tag(CUSTOM)],
    _chosen("name", default="momentum"),
]


# ---- the run

DEFAULT_BATCH_SIZE = 8


class Train(Section):
    """Length and form of the training."""

    batch_size: int | None = Field(None, ge=1, description="Examples of a step over all workers together; 8 if unset.")
    batch_size_per_worker: int | None = Field(None, ge=1, description="The other spelling: times the workers.")
    epochs: int | None = Field(None, ge=1, description="Passes over the examples; 10 where steps is unset too.")
    steps: int | None = Field(None, ge=1, description="Or: optimizer steps.")
    remainder: Literal["keep", "drop"] = Field("keep", description="The smaller last batch of an epoch.")
    precision: Literal["float32", "float64", "tensorfloat32", "mixed_bfloat16", "mixed_float16"] = Field(
        "float32",
        description="Of weights and arithmetic; tensorfloat32: as float32, on GPUs with products of 10 bits; mixed: "
        "weights and sums in float32, layers in 16 bits.",
    )
    compression: Literal["none", "float16", "bfloat16"] = Field(
        "none", description="Of gradients on their way between workers, half the bytes; statistics stay as they are."
    )
    reduction: Literal["mean", "adasum"] = Field(
        "mean", description="Of the workers' gradients: the mean over all examples, or Adasum of each worker's mean."
    )
    accumulate: int = Field(1, ge=1, description="Micro-batches that a worker's share of a step is split into.")
    clip_norm: float | None = Field(None, gt=0, description="Clip the gradient to this global norm.")
    sync_batch_norm: bool = Field(False, description="Batch normalisation over the examples of all workers.")
    max_bad_steps: int = Field(3, ge=1, description="Non-finite steps in a row that end the run.")

    @model_validator(mode="after")
    def _one_spelling(self) -> Self:
        if self.batch_size is not None and self.batch_size_per_worker is not None:
            raise ValueError("expected batch_size or batch_size_per_worker, got both")
        if self.epochs is not None and self.steps is not None:
            raise ValueError("expected epochs or steps, got both")
        if self.sync_batch_norm and self.accumulate > 1:
            raise ValueError(
                "expected sync_batch_norm or accumulate, got both: micro-batches are normalised one by one"
            )
        if self.sync_batch_norm and self.reduction == "adasum":
            raise ValueError(
                "expected sync_batch_norm or reduction: adasum, got both: no worker has a gradient of its own examples"
            )
        return self


class Gradients(Section):
    """The running mean of the gradients and its norms."""

    enabled: bool = Field(True, description="Keep them; `gradients: off` is short for false.")
    every: int = Field(1, ge=1, description="Measure at each so many steps; the mean takes in every step.")
    mode: Literal["cumulative", "exponential", "window"] = Field(
        "cumulative", description="The mean of all steps, of the last ones by `decay`, or since the last `window`."
    )
    decay: float = Field(0.999, gt=0, lt=1, description="Mode exponential: a step's weight in the next one's mean.")
    window: int = Field(1000, ge=2, description="Mode window: the mean starts anew at each so many steps.")
    smoothing: float = Field(0.99, ge=0, lt=1, description="Weight of the past in the smoothed signal and noise.")


Metric = Literal["loss", "pixel_error", "dice", "iou", "accuracy"]


class Checkpoint(Section):
    """Saving the run, to go on from there."""

    every: Duration = Field(Duration(1, "epoch"), description="How often.")
    keep: int = Field(3, ge=1, description="How many of the newest to keep.")
    keep_every: Duration | None = Field(None, description="Keep for good the first of each so many steps or epochs.")
    best: Metric | None = Field(None, description="Keep the best by this validation metric too, saved when reached.")
    on_error: Literal["stop", "continue"] = Field("stop", description="What to do where one cannot be written.")

    @field_validator("keep_every")
    @classmethod
    def _counted(cls, value: Duration | None) -> Duration | None:
        if value is not None and value.timed:
            raise ValueError(f"expected steps, epochs or examples, got '{value}'")
        return value


def _endpoint(value: Any) -> Any:
    """`ADDRESS:PORT`, from a port alone, which is one of this machine's own, or an address with one."""
    expected = "expected a port, such as 9464, or ADDRESS:PORT, such as 0.0.0.0:9464 or [::1]:9464"
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(expected)
    address, _, port = ("", "", str(value)) if str(value).isdecimal() else str(value).rpartition(":")
    address = {"": "127.0.0.1", "localhost": "127.0.0.1"}.get(address, address)
    try:
        ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError(f"{expected}, got '{value}'") from None
    if not port.isdecimal() or int(port) > 65535 or (":" in address) != address.startswith("["):
        raise ValueError(f"{expected}, got '{value}'")
    return f"{address}:{port}"


def _without_password(value: str | None) -> str | None:
    """An address that may be written down in the run's folder."""
    address = None if value is None else urlsplit(value)
    if address is not None and (address.username or address.password):
        raise ValueError(
            "expected an address without name and password, got one with them; those belong into the environment, as "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or all of it as MLFLOW_TRACKING_URI"
        )
    return value


class MLflow(Section):
    """MLflow is told what is written down; it takes names and passwords from its own environment variables."""

    uri: Annotated[str | None, AfterValidator(_without_password)] = Field(
        None, min_length=1, description="The tracking server; what `MLFLOW_TRACKING_URI` says where left out."
    )
    experiment: str | None = Field(None, min_length=1, description="The experiment; the job's name where left out.")


class Wandb(Section):
    """Weights & Biases is told what is written down; it takes its key from its own environment variables."""

    project: str | None = Field(
        None, pattern=NAME, max_length=128, description="The project; the job's name where left out."
    )
    entity: str | None = Field(None, min_length=1, description="The user or team; the key's own where left out.")
    mode: Literal["online", "offline"] | None = Field(
        None, description="Offline, all stays in the run's folder for `wandb sync`; `WANDB_MODE` where left out."
    )


class Log(Section):
    """What rank 0 writes down, and shows while the run goes on."""

    every: Duration = Field(Duration(1, "step"), description="How often a step is recorded.")
    examples: bool = Field(False, description="Record which examples each rank drew, at each step.")
    tensorboard: bool = Field(True, description="Write TensorBoard events.")
    predictions: int = Field(4, ge=0, description="Validation examples to draw a prediction of at each epoch.")
    serve: Annotated[str | None, BeforeValidator(_endpoint)] = Field(
        None,
        description="Port, or `ADDRESS:PORT`, where rank 0 answers while it trains: `/metrics` for Prometheus, "
        "`/healthz`, and `/` with the report of now. A port alone is for this machine only; 0 takes any that is free.",
    )
    mlflow: MLflow | None = Field(None, description="Tell MLflow too; needs the extra `mlflow`. `{}` is enough.")
    wandb: Wandb | None = Field(None, description="Tell Weights & Biases too; needs the extra `wandb`. `{}` is enough.")

    @property
    def services(self) -> tuple[str, ...]:
        """The keys of the tracking services that are told."""
        return tuple(name for name in ("mlflow", "wandb") if getattr(self, name) is not None)

    @property
    def endpoint(self) -> tuple[str, int] | None:
        """The address and the port of `serve`."""
        if self.serve is None:
            return None
        address, _, port = self.serve.rpartition(":")
        return address.strip("[]"), int(port)


class Parallel(Section):
    """How workers share the machine and watch each other."""

    verify_every: int = Field(100, ge=1, description="Steps between two proofs that all ranks hold the same bits.")
    threads: int | None = Field(None, ge=1, description="Threads of a worker; its share of the host's cores if unset.")
    deterministic: bool = Field(False, description="Deterministic operations on GPUs, slower; CPUs are so anyway.")
    jit_compile: Literal[True, False, "auto"] = Field(
        "auto", description="XLA. auto: on GPUs, for all but forward and backward pass; true: for these, too."
    )
    stall_timeout: Duration = Field(Duration(10, "minute"), description="Standing still so long ends the run.")

    @field_validator("stall_timeout")
    @classmethod
    def _timed(cls, value: Duration) -> Duration:
        if not value.timed:
            raise ValueError(f"expected seconds, minutes or hours, got '{value}'")
        return value


class Job(Section):
    """A whole job file."""

    name: str = Field("job", pattern=NAME, description="Names the run's folder.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of weights, order of examples and dropout.")
    data: Data = Field(description="Where examples come from.")
    model: ModelChoice = Field(default_factory=UNet, description="What is trained.")
    loss: LossChoice = Field(default_factory=CrossEntropy, description="What it is trained for.")
    optimizer: OptimizerChoice = Field(default_factory=Momentum, description="How it is trained.")
    train: Train = Field(default_factory=Train, description="Length and form of the training.")
    gradients: Gradients = Field(default_factory=Gradients, description="Running mean of the gradients.")
    checkpoint: Checkpoint = Field(default_factory=Checkpoint, description="Saving.")
    log: Log = Field(default_factory=Log, description="What is written down.")
    parallel: Parallel = Field(default_factory=Parallel, description="Workers.")

    @model_validator(mode="after")
    def _best_is_measured(self) -> Self:
        if self.checkpoint.best is not None and self.data.validation is None:
            raise ValueError(f"'checkpoint.best' is '{self.checkpoint.best}', expected 'data.validation' beside it")
        return self

    @model_validator(mode="after")
    def _mean_is_taken(self) -> Self:
        if self.train.reduction == "adasum" and self.gradients.enabled:
            raise ValueError(
                "train.reduction is 'adasum', expected gradients: off, since their statistics are of the mean gradient"
            )
        return self

    @model_validator(mode="after")
    def _passes_exchange_nothing(self) -> Self:
        if self.parallel.jit_compile is True and self.train.sync_batch_norm:
            raise ValueError(
                "train.sync_batch_norm is true, expected parallel.jit_compile: auto, since within the forward pass XLA "
                "cannot exchange with other workers"
            )
        return self

    @field_validator("gradients", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return {"enabled": value} if isinstance(value, bool) else value
