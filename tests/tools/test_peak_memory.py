"""Peak memory of pieces of work of a known size."""

from __future__ import annotations

import mmap

import pytest


def _use(size: int) -> None:
    """Hold ``size`` bytes for a moment, of pages that no allocator keeps for later."""
    with mmap.mmap(-1, size) as block:
        for start in range(0, size, mmap.PAGESIZE):
            block[start] = 1


def test_growth_is_of_the_work_since(load_tool) -> None:
    tool = load_tool("peak_memory")
    _use(2**26)  # gone before the measurement starts
    memory = tool.PeakMemory()
    assert memory.growth() < 2**23
    _use(2**25)  # gone before it ends
    assert 0.9 * 2**25 < memory.growth() < 1.5 * 2**25
    assert memory.peak() == memory.held + memory.growth()
    assert tool.available_memory() > 0


def test_missing_fields_are_named(load_tool, tmp_path) -> None:
    tool = load_tool("peak_memory")
    path = tmp_path / "status"
    path.write_text("VmRSS:\t  12 kB\n")
    assert tool._field_bytes(path, "VmRSS") == 12 * 1024
    with pytest.raises(OSError, match="has no VmHWM"):
        tool._field_bytes(path, "VmHWM")
