"""Where kernels are tested: on the GPU, or else in Triton's interpreter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with PyTorch on Linux alone")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tests that take a device are those of a GPU, too."""
    if item.path.parent == Path(__file__).parent and "device" in getattr(item, "fixturenames", ()):
        item.add_marker("gpu")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where kernels run here."""
    if torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        return torch.device("cuda")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("there is no GPU, and TRITON_INTERPRET=1 is not set")
    return torch.device("cpu")
