"""A provider with what is done to its examples before a model sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from distrain.data.order import ByShard, Order, Permuted
from distrain.data.provider import BatchReader, Example, ExampleSpec, Provider
from distrain.errors import BadInput


@dataclass(frozen=True)
class Source:
    """A provider with its preparation: `read(index, epoch)` gives an example of `spec`, ready for the model.

    `skips`: examples that cannot be read are left out, and counted, instead of ending the run. `order` is how an epoch
    goes through the examples; `caveats` are sentences for the user. `class_names`, where the provider knows them.
    """

    provider: Provider
    spec: ExampleSpec
    prepare: Callable[[Example, int, int], Example]
    skips: bool = False
    caveats: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    order: Order = field(init=False)

    def __post_init__(self) -> None:
        sharding = getattr(self.provider, "sharding", None)
        object.__setattr__(self, "order", Permuted(len(self)) if sharding is None else ByShard(sharding))

    def __len__(self) -> int:
        return len(self.provider)

    def form(self) -> dict[str, Any]:
        """What its examples are like, as JSON holds it: the fields of the spec, and the names of the classes."""
        return {**asdict(self.spec), "class_names": list(self.class_names)}

    def read(self, index: int, epoch: int) -> Example:
        """The example at `index` as epoch `epoch` sees it. Raises `BadInput` where it is not what `spec` says."""
        return self._prepared(self.provider.read(index), index, epoch)

    def read_batch(self, indices: Sequence[int], epoch: int) -> Iterator[Example | BadInput]:
        """For each index the example, or why it cannot be had; one at a time, where the provider reads them so."""
        if isinstance(self.provider, BatchReader):
            try:
                read = self.provider.read_batch(indices)
            except BadInput:
                pass  # which of them it is shows when they are read one by one
            else:
                yield from (self._tried(index, epoch, example) for index, example in zip(indices, read, strict=True))
                return
        yield from (self._tried(index, epoch, None) for index in indices)

    def _tried(self, index: int, epoch: int, read: Example | None) -> Example | BadInput:
        try:
            return self._prepared(self.provider.read(index) if read is None else read, index, epoch)
        except BadInput as error:
            return error

    def _prepared(self, read: Example, index: int, epoch: int) -> Example:
        example = self.prepare(read, index, epoch)
        if example.image.shape != self.spec.image_shape or example.label.shape != self.spec.label_shape:
            raise BadInput(
                f"example {index}: image {example.image.shape} and label {example.label.shape}, "
                f"expected {self.spec.image_shape} and {self.spec.label_shape}"
            )
        return example
