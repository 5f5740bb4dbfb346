"""Fixtures that every test may use: tiny diffusers folders, and a cache of the session's own."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# Read when huggingface_hub is imported: no test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep computed null prompts out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACE_D2_CACHE", str(tmp_path_factory.mktemp("trace_d2_cache")))
        yield


@pytest.fixture(scope="session")
def tiny_diffusers() -> ModuleType:
    """The module ``tests/tiny_diffusers.py``."""
    path = Path(__file__).with_name("tiny_diffusers.py")
    spec = importlib.util.spec_from_file_location("tiny_diffusers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_pipeline(
    tiny_diffusers: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Any, Path]]:
    """``tiny_pipeline(family)``: the family's tiny pipeline and its folder, made once a session.

    Families: sd15, sdxl, pixart, sd3, flux. Treat both as read-only; copy the folder to change it.
    """
    made: dict[str, tuple[Any, Path]] = {}

    def make(family: str) -> tuple[Any, Path]:
        if family not in made:
            folder = tmp_path_factory.mktemp(f"tiny_{family}")
            made[family] = tiny_diffusers.save_tiny_pipeline(family, folder), folder
        return made[family]

    return make


@pytest.fixture(scope="session")
def tiny_folder(tiny_pipeline: Callable[[str], tuple[Any, Path]]) -> Callable[[str], Path]:
    """``tiny_folder(family)``: the folder of a tiny pipeline, read-only."""
    return lambda family: tiny_pipeline(family)[1]


@pytest.fixture(scope="session")
def build_tiny(tiny_folder: Callable[[str], Path]) -> Callable[..., Any]:
    """``build_tiny(family_or_folder, DTYPE="bfloat16", ...)``: a backbone through the config.

    Keyword arguments are keys of ``MODEL.TRACE.BACKBONE``. It runs on the CPU.
    """

    def build(model: str | Path, **options: Any) -> Any:
        from trace_d2.config import get_trace_cfg
        from trace_d2.diffusion import build_backbone

        cfg = get_trace_cfg()
        cfg.MODEL.TRACE.DEVICE = "cpu"
        folder = model if isinstance(model, Path) else tiny_folder(model)
        cfg.MODEL.TRACE.BACKBONE.NAME = str(folder)
        for key, value in options.items():
            cfg.MODEL.TRACE.BACKBONE[key] = value
        return build_backbone(cfg)

    return build


@pytest.fixture(scope="session")
def load_tool() -> Iterator[Callable[[str], ModuleType]]:
    """``load_tool(name)``: a module of tools/, which finds its neighbours as when it is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "tools")
        yield importlib.import_module
