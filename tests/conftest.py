"""Fixtures that every test may use: tiny diffusers folders, and a cache of the session's own."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

# Read when huggingface_hub is imported: no test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
# Read when triton is imported: without a GPU, its interpreter runs the kernels.
if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

if sys.dont_write_bytecode and os.name == "posix":
    # Else every process of the tests compiles torch, diffusers and Detectron2 anew: ten seconds.
    # A folder of somebody else is not trusted.
    _BYTECODE = Path(tempfile.gettempdir(), f"trace_d2_bytecode_{os.getuid()}")
    _BYTECODE.mkdir(mode=0o700, exist_ok=True)
    if _BYTECODE.stat().st_uid == os.getuid():
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(_BYTECODE)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        sys.dont_write_bytecode = False

import pytest
from miniature.rules import SMALL_RESNET, small_model

REPOSITORY = Path(__file__).parents[1]
NEED_DETECTRON2 = ("data", "engine", "modeling")  # all tests of these folders

if importlib.util.find_spec("hypothesis"):
    from hypothesis import HealthCheck, settings

    # The same examples each time, for which a busy machine has all the time it needs. To look for
    # others: `--hypothesis-profile default`.
    settings.register_profile(
        "repeatable",
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("repeatable")

if importlib.util.find_spec("detectron2") is None:
    collect_ignore = [*NEED_DETECTRON2]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests of whole folders that need Detectron2."""
    if item.path.relative_to(Path(__file__).parent).parts[0] in NEED_DETECTRON2:
        item.add_marker("detectron2")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep computed null prompts out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACE_D2_CACHE", str(tmp_path_factory.mktemp("trace_d2_cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _nothing_waits_for_the_disk() -> Iterator[None]:
    """Files need not outlive a power failure here; tests of what a full disk says put their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """Leave the loggers of a training as they were: handlers of a test end with it."""
    loggers = [logging.getLogger(name) for name in ("fvcore", "detectron2", "trace_d2")]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture(scope="session")
def make_cfg() -> Callable[..., Any]:
    """``make_cfg(key, value, ...)``: Detectron2's config with the ``TRACE`` keys, changed so."""

    def make(*pairs: Any) -> Any:
        from detectron2.config import get_cfg

        from trace_d2.config import add_trace_config

        cfg = get_cfg()
        add_trace_config(cfg)
        cfg.merge_from_list(list(pairs))
        return cfg

    return make


@pytest.fixture(scope="session")
def run_apart() -> Callable[..., tuple[str, str]]:
    """``run_apart(tool, *options, cwd=None)``: stdout and stderr of a tool in a process of its own.

    The last line of stdout tells its exit status, and which heavy packages it imported.
    """
    heavy = ("torch", "detectron2", "diffusers", "transformers", "matplotlib")
    code = f"""
import runpy, sys
sys.argv, sys.path[0] = sys.argv[1:], sys.argv[1].rpartition("/")[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stopped:
    print("status", stopped.code, [name for name in {heavy} if name in sys.modules])
"""

    def run(tool: str, *options: Any, cwd: Path | None = None) -> tuple[str, str]:
        command = [sys.executable, "-c", code, str(REPOSITORY / "tools" / tool)]
        done = subprocess.run(
            [*command, *map(str, options)], capture_output=True, text=True, check=False, cwd=cwd
        )
        return done.stdout, done.stderr

    return run


@pytest.fixture(scope="session")
def tiny_diffusers() -> ModuleType:
    """The module ``tools/studies/miniature/models/diffusion.py``."""
    return importlib.import_module("miniature.models.diffusion")


@pytest.fixture(scope="session")
def weights_of_hed() -> ModuleType:
    """The module ``tests/helpers/hed_weights.py``; without h5py, who asks for it is skipped."""
    pytest.importorskip("h5py")
    return importlib.import_module("hed_weights")


@pytest.fixture(scope="session")
def original_names() -> ModuleType:
    """The module ``tests/helpers/original_names.py``."""
    return importlib.import_module("original_names")


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


def _saved_once(
    save: Callable[[str, Path], Any], temporary: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of a kind of tiny model, which ``save`` writes when it is first asked for."""

    @cache
    def folder_of(kind: str) -> Path:
        folder = temporary.mktemp(f"tiny_{kind}")
        save(kind, folder)
        return folder

    return folder_of


@pytest.fixture(scope="session")
def tiny_vits() -> ModuleType:
    """The module ``tools/studies/miniature/models/vits.py``."""
    return importlib.import_module("miniature.models.vits")


@pytest.fixture(scope="session")
def tiny_vit_folder(
    tiny_vits: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """``tiny_vit_folder(model_type)``: the folder of a tiny vision transformer, read-only."""
    return _saved_once(tiny_vits.save_tiny_vit, tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_multimodal() -> ModuleType:
    """The module ``tools/studies/miniature/models/multimodal.py``."""
    return importlib.import_module("miniature.models.multimodal")


@pytest.fixture(scope="session")
def tiny_multimodal_folder(
    tiny_multimodal: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """``tiny_multimodal_folder(model_type)``: the folder of a tiny one, read-only."""
    return _saved_once(tiny_multimodal.save_tiny_multimodal, tmp_path_factory)


@pytest.fixture(scope="session")
def build_tiny(tiny_folder: Callable[[str], Path]) -> Callable[..., Any]:
    """``build_tiny(family_or_folder, DTYPE="bfloat16", ...)``: a backbone through the config.

    Keyword arguments are keys of ``MODEL.TRACE.BACKBONE``. It runs on the CPU.
    """

    def build(model: str | Path, **options: Any) -> Any:
        from trace_d2.backbones import build_backbone
        from trace_d2.config import get_trace_cfg

        cfg = get_trace_cfg()
        cfg.MODEL.TRACE.DEVICE = "cpu"
        folder = model if isinstance(model, Path) else tiny_folder(model)
        cfg.MODEL.TRACE.BACKBONE.NAME = str(folder)
        for key, value in options.items():
            cfg.MODEL.TRACE.BACKBONE[key] = value
        return build_backbone(cfg)

    return build


@pytest.fixture(scope="session")
def object_store() -> ModuleType:
    """The module ``tests/helpers/object_store.py``."""
    return importlib.import_module("object_store")


@pytest.fixture(scope="session")
def s3_server(object_store: ModuleType) -> Iterator[str]:
    """The address of an S3 server of this session, to which the environment leads."""
    with object_store.s3_server() as address:
        yield address


@pytest.fixture
def bucket(object_store: ModuleType, s3_server: str) -> Any:
    """A new bucket of the S3 server: see ``tests/helpers/object_store.py``."""
    name = f"s3://test-{uuid.uuid4().hex[:12]}"
    made = object_store.Bucket(name)
    made.fs.mkdir(made.root)
    return made


@pytest.fixture
def memory_store(object_store: ModuleType) -> Any:
    """A place of this process's memory of its own, as ``bucket`` is one."""
    return object_store.Bucket(f"memory://test-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``without_packages("gguf", ...)``: as if these were not installed."""
    version = importlib.metadata.version

    def hide(*names: str) -> None:
        def of_those_left(name: str) -> str:
            if name in names:
                raise importlib.metadata.PackageNotFoundError(name)
            return version(name)

        monkeypatch.setattr(importlib.metadata, "version", of_those_left)

    return hide


@pytest.fixture(scope="session")
def load_tool() -> Callable[[str], ModuleType]:
    """``load_tool(name)``: a module below tools/; ``pythonpath`` in pyproject.toml finds it."""
    return importlib.import_module


@pytest.fixture(scope="session")
def small_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of 64 x 64 with truth."""
    from trace_d2.scenes.dataset import SceneSettings, write_scenes

    folder = tmp_path_factory.mktemp("small_scenes")
    write_scenes(folder, 2, SceneSettings(size=(64, 64)), progress=False)
    return folder


@pytest.fixture(scope="session")
def small_options(small_scenes: Path) -> Callable[[Path, Path], list[str]]:
    """``small_options(config, output)``: keys that make a training of two iterations small."""

    def make(config: Path, output: Path) -> list[str]:
        keys = small_model()
        keys += ["MODEL.WEIGHTS", "", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2"]
        if "scenes" not in config.stem:  # Detectron2 has ResNet-18 in one width only
            keys += SMALL_RESNET
        images, truth = str(small_scenes / "images"), str(small_scenes / "instances.json")
        if config.parent.name == "panoptic":
            name, kind = "small_panoptic", "PANOPTIC"
            entry = [name, str(small_scenes), images]
            keys += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "6"]
        else:
            name, kind = "small_instances", "INSTANCES"
            entry = [name, truth, images]
        keys += [f"DATASETS.TRACE.{kind}", str([entry]), "DATASETS.TRAIN", str((name,))]
        if config.stem != "scenes_backbone":
            keys += ["DATASETS.TEST", str((name,))]
        return [*keys, "OUTPUT_DIR", str(output)]

    return make
