"""What the host does in a pass that is read: synchronisations, launches, CUDA graphs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gpu_checks.common import Check, apart
from gpu_checks.models import bare_pass
from trace_d2.edges import EdgeDetector


def run(check: Check) -> None:
    """Measure."""
    name = "sd35-large"
    teacher = EdgeDetector.from_config(check.cfg(name), check.backbone(name))
    view = teacher.view(check.image(), "image")
    read = torch.inference_mode()(lambda: view([0]))
    bare = bare_pass(view, [0])
    read()
    check.measure(
        "a pass that is read does not wait for the device", lambda: _unwaiting(check, read)
    )
    bare_calls = check.measure("launches of a bare pass", lambda: launches(check, bare))
    calls = check.measure("launches of a pass that is read", lambda: launches(check, read))
    if calls and bare_calls:
        check.measure("launches of the maps", lambda: calls["launches"] - bare_calls["launches"])
    check.measure("host, ms of a bare pass", lambda: _host_milliseconds(check, bare))
    check.measure("host, ms of a pass that is read", lambda: _host_milliseconds(check, read))
    if check.cuda:
        check.measure("as a CUDA graph", lambda: _graph(check, view))


def _unwaiting(check: Check, work: Callable[[], Any]) -> bool:
    """Whether ``work`` runs without a synchronisation; an error of PyTorch's if it has one."""
    if not check.cuda:
        return work() is not None
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return True


def launches(check: Check, work: Callable[[], Any]) -> dict[str, Any]:
    """How many kernels run (on the CPU: PyTorch's operations), their time, and the longest."""
    activities = [ProfilerActivity.CUDA] if check.cuda else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        work()
        if check.cuda:
            torch.cuda.synchronize()
    # Calls of CUDA's two interfaces (cudaLaunchKernel, cuLaunchKernelEx) stand beside the kernels.
    rows = [row for row in profiler.key_averages() if not re.match("cu(da)?[A-Z]", row.key)]

    def own_ms(row: Any) -> float:
        time = row.self_device_time_total if check.cuda else row.self_cpu_time_total
        return float(time) / 1000

    rows.sort(key=own_ms, reverse=True)
    return {
        "launches": sum(row.count for row in rows),
        "ms": round(sum(map(own_ms, rows)), 2),
        "longest": [(row.key[:80], round(own_ms(row), 2), row.count) for row in rows[:10]],
    }


def _host_milliseconds(check: Check, work: Callable[[], Any]) -> float:
    """Until the host is done, with the device still at work."""
    import statistics
    import time

    taken = []
    for _ in range(check.size(5, 1)):
        if check.cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - start))
    return round(statistics.median(taken), 2)


def _graph(check: Check, view: Any) -> dict[str, float]:
    """Milliseconds of a replay, and how far its map lies from that of an eager pass."""

    @torch.inference_mode()
    def work() -> Tensor:
        return view([0])

    expected = work().clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    graph.replay()
    return apart(captured, expected) | {"ms": check.milliseconds(graph.replay)}
