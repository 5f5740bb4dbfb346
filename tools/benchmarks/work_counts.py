"""What a piece of work asks of its device, counted where no device is: on PyTorch's meta device."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

# They read values, for which the host waits.
_READING = frozenset(
    [
        "_local_scalar_dense",
        "equal",
        "nonzero",
        "is_nonzero",
        "masked_select",
        "bincount",
        "unique_dim",
        "_unique2",
        "unique_consecutive",
        "nonzero_static",
        "histc",
    ]
)
_INDEXING = frozenset({"index", "index_put_", "index_put", "_index_put_impl_"})
# They make a tensor, or look at one in another way, and run nothing.
_IDLE = frozenset(
    [
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "_unsafe_view",
        "lift_fresh",
        "detach",
        "alias",
        "is_same_size",
    ]
)


@dataclass
class Work:
    """Counts of a piece of work.

    Attributes:
        operations: dispatched, views and allocations among them.
        launches: of kernels: an operation that computes is one, attention is one, an operator of
            ours as many as its kernels are.
        waits: places in the code where the host waits for the device, or copies from its own
            memory to it, and how often.
    """

    operations: int = 0
    launches: int = 0
    waits: Counter[str] = field(default_factory=Counter)


def count(work: Callable[[], Any], launches_of: Callable[..., int] | None = None) -> Work:
    """Do ``work``, whose tensors are on the meta device, and count.

    What reads a value there ends the work with an error, and counts as a wait.

    Args:
        launches_of: operator and arguments to the number of kernels, for operators of ours.
    """
    counter = _Counter(launches_of or (lambda *_: 1))
    with contextlib.ExitStack() as stack:
        stack.enter_context(_attention_as_one(counter))
        stack.enter_context(counter)
        try:
            work()
        except (RuntimeError, NotImplementedError):
            if not counter.work.waits:
                raise
    return counter.work


class _Counter(TorchDispatchMode):
    def __init__(self, launches_of: Callable[..., int]) -> None:
        super().__init__()
        self.work = Work()
        self.launches_of = launches_of
        self.paused = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.name().partition("::")[2].partition(".")[0]
        if self.paused:
            return func(*args, **kwargs)
        if (name in _READING and _on_device(args)) or _masks(name, args):
            self._wait(name)
        result = func(*args, **kwargs)
        # What stays on the CPU is no work of the device; lift_fresh is what torch.tensor ends with.
        if _on_device((args, result)):
            self.work.operations += 1
            if _on_cpu(args) or name == "lift_fresh" or (name == "_to_copy" and _on_cpu(result)):
                self._wait("copy")
            if name not in _IDLE and not func.is_view:
                ours = func.namespace == "trace_d2"
                self.work.launches += self.launches_of(func, args, kwargs) if ours else 1
        return result

    def _wait(self, kind: str) -> None:
        self.work.waits[f"{kind} at {_caller()}"] += 1


@contextlib.contextmanager
def _attention_as_one(counter: _Counter) -> Iterator[None]:
    """Counts ``scaled_dot_product_attention`` as one launch; on the meta device it is many."""
    plain = functional.scaled_dot_product_attention

    def attend(*args: Any, **kwargs: Any) -> Tensor:
        counter.work.operations += 1
        counter.work.launches += 1
        counter.paused = True
        try:
            return plain(*args, **kwargs)
        finally:
            counter.paused = False

    functional.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = plain


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)


def _on_device(values: Any) -> bool:
    return any(tensor.is_meta for tensor in _tensors(values))


def _on_cpu(values: Any) -> bool:
    """Whether a tensor is on the CPU. One number goes to a kernel as an argument, not by a copy."""
    return any(not tensor.is_meta and tensor.ndim > 0 for tensor in _tensors(values))


def _masks(name: str, args: tuple[Any, ...]) -> bool:
    if name not in _INDEXING:
        return False
    return any(x.dtype in (torch.bool, torch.uint8) for x in _tensors(args[1]))


def _caller() -> str:
    """File and line of the innermost code that is neither PyTorch's nor ours here."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if "/torch/" not in name and name != __file__:
            return f"{'/'.join(name.split('/')[-3:])}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"
