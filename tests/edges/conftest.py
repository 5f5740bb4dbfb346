"""Tiny students of every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

DECODERS = {
    "CNN": {},
    "RELATIVE": {"CHANNELS": 8, "WINDOW": 3, "LAYERS": 1, "UPSAMPLE": 2},
    "UNET": {"CHANNELS": 8},
    "MASK2FORMER": {"CHANNELS": 8, "QUERIES": 5, "LAYERS": 2, "HEADS": 2},
}


@pytest.fixture(scope="session")
def student_cfg(tiny_folder: Callable[[str], Path]) -> Callable[..., Any]:
    """``student_cfg(family, KEY=value, ...)``: keys of MODEL.TRACE, double underscores for dots.

    Images are 32 x 32 (64 x 64 for trace-tiny), adapters of rank 4 and strength 2, decoders small.
    """

    def make(family: str, **keys: Any) -> Any:
        from trace_d2.config import get_trace_cfg

        cfg = get_trace_cfg()
        trace = cfg.MODEL.TRACE
        trace.DEVICE = "cpu"
        trace.EDGES.SOURCE = "student"
        tiny = family == "trace-tiny"
        trace.BACKBONE.NAME = family if tiny else str(tiny_folder(family))
        trace.BACKBONE.RESOLUTION = 64 if tiny else 32
        trace.STUDENT.LORA.RANK, trace.STUDENT.LORA.ALPHA = 4, 8.0
        for name, settings in DECODERS.items():
            for key, value in settings.items():
                trace.STUDENT.DECODER[name][key] = value
        pairs = [(f"MODEL.TRACE.{k.replace('__', '.')}", v) for k, v in keys.items()]
        cfg.merge_from_list([part for pair in pairs for part in pair])
        return cfg

    return make


@pytest.fixture(scope="session")
def make_student(student_cfg: Callable[..., Any]) -> Callable[..., Any]:
    """``make_student(family, KEY=value, ...)``: as after some training: no adapter is zero."""

    def make(family: str, **keys: Any) -> Any:
        from trace_d2.edges.student import EdgeStudent

        torch.manual_seed(0)
        student = EdgeStudent.from_config(student_cfg(family, **keys))
        for name, parameter in student.trainable().items():
            if ".lora_B." in name:
                torch.nn.init.normal_(parameter, std=0.05)
        return student

    return make
