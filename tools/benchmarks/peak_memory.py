"""Peak memory of a piece of work: of this process, or of a CUDA device."""

from __future__ import annotations

from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Measures from where it is made: ``held`` then, and the ``peak()`` since.

    On the CPU that is resident memory of the process (Linux only), on CUDA what PyTorch allocated.

    Attributes:
        held: bytes in use when it was made.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.held = torch.cuda.memory_allocated(self.device)
        else:
            # Forgets earlier peaks, such as that of loading a model; see proc(5).
            Path("/proc/self/clear_refs").write_text("5")
            self.held = _status_bytes("VmRSS")

    def peak(self) -> int:
        """Most bytes in use since."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return _status_bytes("VmHWM")

    def growth(self) -> int:
        """``peak() - held``: what the work took on top of what was there."""
        return self.peak() - self.held


def available_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that can still be taken on ``device``."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return _field_bytes(Path("/proc/meminfo"), "MemAvailable")


def _status_bytes(field: str) -> int:
    return _field_bytes(_STATUS, field)


def _field_bytes(path: Path, field: str) -> int:
    """A field of a /proc file in bytes; getrusage would count the parent's peak, too."""
    for line in path.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{path} has no {field}: memory is measured on Linux only")
