"""A kernel with all that a launch needs: to be run, or to be compiled where no GPU is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    Attributes:
        kernel: made by ``triton.jit``.
        grid: how many programs, along up to three axes.
        arguments: tensors, numbers and constants by the kernel's names of them.
        warps, stages: of a program; stages are tiles that are on their way at a time.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int = 4
    stages: int = 3

    @property
    def options(self) -> dict[str, Any]:
        """Of Triton's compiler."""
        # Multiplications and additions become one instruction: half of what a score costs.
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}

    @property
    def tensor(self) -> Tensor:
        """The first of the arguments, on the device and of the type that the kernel works on."""
        return next(value for value in self.arguments.values() if isinstance(value, Tensor))

    def run(self) -> None:
        """Launch it.

        Raises:
            RuntimeError: it does not compile for this GPU, or does not fit it.
        """
        try:
            # Triton launches on the current GPU, which need not be that of the tensors.
            with torch.cuda.device_of(self.tensor):
                self.kernel[self.grid](**self.arguments, **self.options)
        except Exception as error:  # Triton's compiler, its assemblers and drivers raise any kind
            raise RuntimeError(
                f"Triton's kernel {self.kernel.__name__} does not run on this GPU "
                f"({type(error).__name__}: {str(error).strip()[:300]}): set "
                "MODEL.TRACE.ATTENTION.KERNELS plain"
            ) from error
