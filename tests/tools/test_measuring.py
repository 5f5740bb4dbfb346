"""Time and peak memory of pieces of work of a known size."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

import pytest


def _use(size: int) -> None:
    """Hold ``size`` bytes for a moment, of pages that no allocator keeps for later."""
    with mmap.mmap(-1, size) as block:
        for start in range(0, size, mmap.PAGESIZE):
            block[start] = 1


def test_growth_is_of_the_work_since(load_tool) -> None:
    tool = load_tool("measuring")
    _use(2**26)  # gone before the measurement starts
    memory = tool.PeakMemory()
    assert memory.growth() < 2**23
    _use(2**25)  # gone before it ends
    assert 0.9 * 2**25 < memory.growth() < 1.5 * 2**25
    assert memory.peak() == memory.held + memory.growth()
    assert tool.available_memory() > 0


def test_missing_fields_are_named(load_tool, tmp_path) -> None:
    tool = load_tool("measuring")
    path = tmp_path / "status"
    path.write_text("VmRSS:\t  12 kB\n")
    assert tool._field_bytes(path, "VmRSS") == 12 * 1024
    with pytest.raises(OSError, match="has no VmHWM"):
        tool._field_bytes(path, "VmHWM")


def test_two_ways_are_timed_in_turns(load_tool) -> None:
    calls = []
    clock = iter([0, 1, 0, 2, 0, 3, 0, 9, 0, 1, 0, 4])
    turns = load_tool("measuring").in_turns(
        lambda: calls.append("ours"),
        lambda: calls.append("plain"),
        2,
        lambda: next(clock),
        warm_up=1,
    )
    assert calls == 3 * ["ours", "plain"]
    assert (turns.ours, turns.plain, turns.ratio) == (2, 6.5, 3.5)
    assert turns.row("name", 0.5) == ["name", "2.00 s", "6.50 s", "3.5 x", "5.0e-01"]
    assert turns.row("name", 0, images=13)[1:3] == ["6 images/s", "2 images/s"]


def test_work_whose_process_dies(load_tool) -> None:
    """What lives is measured by test_benchmark_prints_every_row: importing takes seconds."""
    tool = load_tool("measuring")
    with pytest.raises(RuntimeError, match=r"_exit.* ended without a result"):
        tool.in_process(os._exit, 1)


def test_memory_of_a_process_and_of_what_it_starts(load_tool) -> None:
    tool = load_tool("measuring")
    large = (
        "import mmap, sys; m = mmap.mmap(-1, 2**26); m.write(bytes(2**26)); print(flush=True);"
        "sys.stdin.read()"
    )
    # Not of the process of the tests, whose own memory and other children may come and go.
    code = (
        "import subprocess, sys; print(flush=True); sys.stdin.readline();"
        f"subprocess.run([sys.executable, '-S', '-c', {large!r}])"
    )
    command = [sys.executable, "-S", "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        alone, count = tool.tree_memory(child.pid)
        assert count == 1
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        both, count = tool.tree_memory(child.pid)
        child.stdin.close()
    assert both - alone > 0.9 * 2**26
    assert count == 2
    assert tool.tree_memory(child.pid) == (0, 0)
