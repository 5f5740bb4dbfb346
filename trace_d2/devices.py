"""Which device a config names, and whether it is there, as far as can be told without PyTorch.

PyTorch takes seconds to import; its version file, and NVIDIA's driver, are asked instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fvcore.common.config import CfgNode

from trace_d2.io.hints import did_you_mean

if TYPE_CHECKING:
    import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The variable of the environment that says which GPUs a process sees."""

_KINDS = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "npu", "xla", "meta")
_DEVICE = re.compile(r"([a-z]+)(?::([0-9]+))?")


def backbone_device(cfg: CfgNode) -> tuple[str, str]:
    """The device of the backbone, or "auto", and the key that says so.

    ``MODEL.TRACE.DEVICE`` wins over ``MODEL.DEVICE``, unless it is "auto".
    """
    if cfg.MODEL.TRACE.DEVICE != "auto":
        return cfg.MODEL.TRACE.DEVICE, "MODEL.TRACE.DEVICE"
    return cfg.MODEL.get("DEVICE", "auto"), "MODEL.DEVICE"


def pick_device(cfg: CfgNode) -> torch.device:
    """Where a network runs; PyTorch is imported.

    ``backbone_device`` says so; at "auto" it is CUDA where there is one.
    """
    import torch

    name, key = backbone_device(cfg)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f'{key} {name!r} cannot be used: {error}; set {key} to "cpu", or to a device that'
            " this machine has"
        ) from error
    return device


_elsewhere = False


@contextlib.contextmanager
def of_other_machines() -> Iterator[None]:
    """Within the block devices are those of other machines; this one need not have them."""
    global _elsewhere
    _elsewhere = True
    try:
        yield
    finally:
        _elsewhere = False


def check_device(name: str, key: str) -> None:
    """Raise a ValueError unless this machine may have the device ``name`` of the config's ``key``.

    What cannot be told without PyTorch passes.
    """
    cpu = f"put `{key} cpu` at the end of the command"
    found = _DEVICE.fullmatch(name)
    if found is None:
        raise ValueError(
            f"{key} {name!r} cannot be used: a device is cpu, cuda, or one of several GPUs as "
            f"cuda:1{_hint(name)}; {cpu}, or name a device that this machine has"
        )
    if found[1] not in _KINDS:
        raise ValueError(
            f"{key} {name!r} cannot be used: no kind of device is called {found[1]}"
            f"{_hint(found[1])}; {cpu}, or name a device that this machine has"
        )
    visible = cuda_devices() if found[1] == "cuda" and not _elsewhere else None
    if visible == 0:
        raise ValueError(
            f"{key} is {name}, but no CUDA device is visible: {cpu}, or mend the driver"
        )
    if visible is not None and found[2] and int(found[2]) >= visible:
        raise ValueError(
            f"{key} is {name}, but {visible} CUDA devices are visible, which count from 0: name "
            "one of them"
        )


def _hint(name: str) -> str:
    return did_you_mean("cuda" if "gpu" in name.lower() else name, _KINDS)


def cuda_devices() -> int | None:
    """How many CUDA devices PyTorch sees; None where only PyTorch itself can tell."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.cuda.device_count())
    version = _torch_version()
    if "hip: Optional[str] = None" not in version:  # AMD's, or of an unknown form
        return None
    if re.search(r"^cuda: Optional\[str\] = None", version, re.MULTILINE):
        return 0
    return _driver_devices()


def visible_gpus() -> list[str] | None:
    """The GPUs that this process may use, in the names of ``CUDA_VISIBLE_DEVICES``.

    None where only PyTorch can tell. PyTorch itself may be built without CUDA all the same.
    """
    version = _torch_version()
    amd = bool(version) and "hip: Optional[str] = None" not in version
    count = None if amd else _nvml_devices()
    given = os.environ.get(VISIBLE)
    if given is None or count == 0:
        return None if count is None else [str(index) for index in range(count)]
    names = [name.strip() for name in given.split(",")]
    wrong = (index for index, name in enumerate(names) if name in ("", "-1"))
    return names[: next(wrong, len(names))]  # as CUDA reads it


@functools.cache
def _nvml_devices() -> int | None:
    """How many GPUs NVIDIA's management library counts; None where there is a driver without it."""
    if _driver_devices() == 0:
        return 0
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    count = ctypes.c_uint()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return None
    nvml.nvmlShutdown()
    return count.value


@functools.cache
def _torch_version() -> str:
    """The text of ``torch/version.py``; empty where there is none."""
    spec = importlib.util.find_spec("torch")
    path = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    return path.read_text(encoding="utf-8") if path and path.is_file() else ""


@functools.cache
def _driver_devices() -> int | None:
    """0 where NVIDIA's driver is absent; else None: how many it shows is left to PyTorch."""
    if os.name != "posix":
        return None
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    return None


def is_device_failure(error: BaseException) -> bool:
    """Whether ``error`` tells that a GPU fails, after which nothing works there in this process.

    That is an illegal access, a failed assertion or a GPU that is gone; too little memory is not.
    """
    told = str(error)
    if not isinstance(error, RuntimeError) or not told.startswith(("CUDA error", "HIP error")):
        return False
    return "out of memory" not in told and "ALLOC_FAILED" not in told
