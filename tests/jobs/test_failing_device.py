"""A GPU that fails is no fault of the images that it was shown."""

from __future__ import annotations

import pytest
import torch

from trace_d2.devices import is_device_failure
from trace_d2.jobs.engine import RunOptions, run_job
from trace_d2.jobs.executors import DeviceFailedError

ASSERTED = """CUDA error: device-side assert triggered
CUDA kernel errors might be asynchronously reported at some other API call"""


def test_it_stops_the_job_and_records_no_image_as_failed(tmp_path, sketching, monkeypatch) -> None:
    sketching.add_images(tmp_path, 5)
    run_job(sketching.sketching_job(tmp_path, "alone"), RunOptions())
    plain = sketching.Sketcher.__call__

    def fail_in_the_middle(self, image, stem):
        if stem == "s02" and (tmp_path / "out/calibration.json").exists():
            raise torch.AcceleratorError(ASSERTED)
        return plain(self, image, stem)

    monkeypatch.setattr(sketching.Sketcher, "__call__", fail_in_the_middle)
    monkeypatch.setattr("trace_d2.jobs.kinds.cutting_job._read_sampled", lambda path: None)
    job = sketching.sketching_job(tmp_path)
    said = r"fails \(CUDA.*triggered\) while.*s02\.png\. Reset"
    with pytest.raises(DeviceFailedError, match=said):
        run_job(job, RunOptions())
    assert {r.stem: r.status for r in job.store.read_records().values()} == {
        "s00": "done",
        "s01": "done",
    }
    monkeypatch.undo()
    assert run_job(sketching.sketching_job(tmp_path), RunOptions()).done == 5
    assert sketching.contents(tmp_path / "out") == sketching.contents(tmp_path / "alone")


def test_what_tells_of_a_device() -> None:
    assert is_device_failure(torch.AcceleratorError(ASSERTED))
    assert is_device_failure(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when ..."))
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
                  RuntimeError("CUDA error: out of memory"), ValueError("CUDA error: asserted"),
                  RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ..."),
                  RuntimeError("shape '[2]' is invalid")):  # fmt: skip
        assert not is_device_failure(error)
