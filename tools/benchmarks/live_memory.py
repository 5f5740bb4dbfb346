"""How much memory a pass takes at its most, counted on the meta device."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made within it and live; ``peak`` is the most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._tensors: Counter[int] = Counter()  # by storage

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = {_storage(leaf) for leaf in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            key = _storage(tensor)
            if key not in given or key in self._tensors:
                self._add(tensor, key)
        return result

    def _add(self, tensor: Tensor, key: int) -> None:
        size = tensor.untyped_storage().nbytes()
        if not self._tensors[key]:
            self.live += size
            self.peak = max(self.peak, self.live)
        self._tensors[key] += 1
        weakref.finalize(tensor, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._tensors[key] -= 1
        if not self._tensors[key]:
            del self._tensors[key]
            self.live -= size


class FusedAttention(TorchFunctionMode):
    """Attention whose scores are nowhere: on the meta device PyTorch would make them all."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            query = named["query"]
            return query.new_empty((*query.shape[:-1], named["value"].shape[-1]))
        return func(*args, **(kwargs or {}))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
