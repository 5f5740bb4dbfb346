"""Devices are looked for without PyTorch, and as PyTorch sees them once it is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trace_d2 import devices
from trace_d2.config import get_trace_cfg
from trace_d2.devices import backbone_device, check_device

WITHOUT_PYTORCH = """
import sys
from trace_d2 import devices
devices._driver_devices = lambda: 0
for name, text in (("cuda", "no CUDA device is visible"), ("cuda:1", "no CUDA device is visible")):
    try:
        devices.check_device(name, "MODEL.DEVICE")
    except ValueError as error:
        assert text in str(error), error
    else:
        sys.exit(f"{name} passes")
devices.check_device("cpu", "MODEL.DEVICE")
devices._driver_devices = lambda: None
devices._torch_version.cache_clear()
devices._torch_version = lambda: "cuda: Optional[str] = '13.0'\\nhip: Optional[str] = None"
devices.check_device("cuda:7", "MODEL.DEVICE")  # only PyTorch can tell
devices._torch_version = lambda: "cuda: Optional[str] = None\\nhip: Optional[str] = None"
assert devices.cuda_devices() == 0
devices._torch_version = lambda: ""
assert devices.cuda_devices() is None
assert "torch" not in sys.modules
"""


def test_without_pytorch():
    subprocess.run([sys.executable, "-c", WITHOUT_PYTORCH], check=True)


@pytest.mark.parametrize(
    ("name", "visible", "message"),
    [
        ("cuda", 0, r"^K is cuda, but no CUDA device is visible: put `K cpu` at the end"),
        ("cuda:2", 2, r"^K is cuda:2, but 2 CUDA devices are visible"),
        ("CUDA:0", 2, r"^K 'CUDA:0' cannot be used"),
        ("cuda1", 2, r"^K 'cuda1' cannot be used: .*did you mean cuda\?"),
        (
            "gpu",
            2,
            r"^K .gpu. cannot be used: no kind of device is called gpu \(did you mean cuda\?\)",
        ),
        ("toaster", 2, r"^K 'toaster' cannot be used: no kind of device is called toaster; put"),
    ],
)
def test_devices_that_are_not_there(name, visible, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: visible)
    with pytest.raises(ValueError, match=message):
        check_device(name, "K")
    check_device("cpu", "K")


def test_the_key_of_trace_wins_over_that_of_detectron2():
    cfg = get_trace_cfg()
    assert backbone_device(cfg) == ("auto", "MODEL.DEVICE")
    cfg.MODEL.DEVICE = "cuda"
    assert backbone_device(cfg) == ("cuda", "MODEL.DEVICE")
    cfg.MODEL.TRACE.DEVICE = "cpu"
    assert backbone_device(cfg) == ("cpu", "MODEL.TRACE.DEVICE")


def test_gpus_are_named_as_cuda_reads_them(monkeypatch) -> None:
    monkeypatch.setattr(devices, "_nvml_devices", lambda: 4)
    for given, names in (("2,0", ["2", "0"]), ("GPU-8f, 1", ["GPU-8f", "1"]), ("", []),
                         ("-1", []), ("3,-1,2", ["3"])):  # fmt: skip
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert devices.visible_gpus() == names
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert devices.visible_gpus() == ["0", "1", "2", "3"]
    monkeypatch.setattr(devices, "_nvml_devices", lambda: None)
    assert devices.visible_gpus() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert devices.visible_gpus() == ["1"]
    monkeypatch.setattr(devices, "_nvml_devices", lambda: 0)
    assert devices.visible_gpus() == []
    monkeypatch.setattr(devices, "_torch_version", lambda: "hip: Optional[str] = '7.0'")
    assert devices.visible_gpus() == ["1"]
