"""Turn a source archive of Detectron2 into a wheel of its Python files: tar in, wheel out.

Only the standard library is used. tools/install_detectron2.py fetches the archive and installs the
wheel.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

HOMEPAGE = "https://github.com/facebookresearch/detectron2"

# Upstream's list without black, which only pretty-prints saved configs, and without the packages of
# the former Caffe2 export. setup.py's extra "detectron2" repeats it.
REQUIREMENTS = (
    "cloudpickle",
    "fvcore>=0.1.5,<0.1.6",
    "hydra-core>=1.1",
    "iopath>=0.1.7,<0.1.10",
    "matplotlib",
    "omegaconf>=2.1,<2.4",
    "packaging",
    "pillow>=7.1",
    "pycocotools>=2.0.2",
    "setuptools<81",
    "tabulate",
    "tensorboard",
    "termcolor>=1.1",
    "tqdm>4.29.0",
    "yacs>=0.1.8",
)

PROJECTS = {
    "projects/PointRend/point_rend/": "detectron2/projects/point_rend/",
    "projects/DeepLab/deeplab/": "detectron2/projects/deeplab/",
    "projects/Panoptic-DeepLab/panoptic_deeplab/": "detectron2/projects/panoptic_deeplab/",
    "configs/": "detectron2/model_zoo/configs/",
}

MISSING_OPERATORS = '''\
"""Stands in for the compiled operators, which this installation of Detectron2 lacks."""


def get_compiler_version():
    return "none (Python files only)"


def get_cuda_version():
    return "none (Python files only)"


def has_cuda():
    return False


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise ImportError(
        f"detectron2._C.{name} is a compiled operator, and this Detectron2 was installed without "
        "them. Build Detectron2 from its git repository with a C++ compiler: "
        "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"
    )
'''


class InstallError(RuntimeError):
    """Something the user can mend; the message says how."""


class Patch(NamedTuple):
    """One replacement: every whole-word ``old`` in ``path``, of which there must be ``times``."""

    path: str
    old: str
    new: str
    times: int


PATCHES = (
    # NumPy 1.24 removed its aliases of Python's own types.
    Patch("detectron2/data/build.py", "np.int", "int", 2),
    Patch("detectron2/evaluation/pascal_voc_evaluation.py", "np.bool", "bool", 2),
    Patch("detectron2/evaluation/sem_seg_evaluation.py", "np.int", "int", 2),
    Patch("detectron2/evaluation/sem_seg_evaluation.py", "np.float", "float", 5),
    Patch("detectron2/structures/masks.py", "np.bool", "bool", 3),
    Patch("detectron2/utils/visualizer.py", "np.bool", "bool", 3),
    Patch("detectron2/utils/video_visualizer.py", "np.bool", "bool", 1),
    # Pillow 10 removed the old name.
    Patch("detectron2/data/transforms/transform.py", "Image.LINEAR", "Image.BILINEAR", 1),
    # Python 3.11 samples sequences only: without this a single bad record ends training.
    Patch(
        "detectron2/data/common.py",
        "self._rng.sample(self._fallback_candidates, k=1)",
        "self._rng.sample(list(self._fallback_candidates), k=1)",
        1,
    ),
    # The default of COCOEvaluator is the compiled evaluation; fall back as upstream does now.
    Patch(
        "detectron2/evaluation/coco_evaluation.py",
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt",
        "COCOeval_opt = COCOeval",
        1,
    ),
)


def check_sha256(path: Path, expected: str) -> None:
    """Raise InstallError unless the file has the expected SHA-256 (hexadecimal)."""
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != expected:
        raise InstallError(
            f"{path.name} has SHA-256 {actual}, not {expected}: it was not installed. "
            "Use another package index, or --source git"
        )


def read_package(archive: Path) -> dict[str, bytes]:
    """Return the files of a source archive that belong in the wheel, by their path in it."""
    files: dict[str, bytes] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.removeprefix("pb1-detectron2-0.6/")
            for source, destination in {**PROJECTS, "detectron2/": "detectron2/"}.items():
                stream = tar.extractfile(member) if path.startswith(source) else None
                if stream is not None and path.endswith((".py", ".yaml")):
                    files[destination + path.removeprefix(source)] = stream.read()
            if path == "LICENSE" and (stream := tar.extractfile(member)) is not None:
                files["LICENSE"] = stream.read()
    for needed in ("detectron2/__init__.py", "detectron2/projects/point_rend/__init__.py"):
        if needed not in files:
            raise InstallError(f"{archive.name} is no Detectron2: it lacks {needed}")
    return files


def apply_patches(files: Mapping[str, bytes], patches: Sequence[Patch]) -> dict[str, bytes]:
    """Return the files with every patch made, each patched file saying so at its end.

    Raises:
        InstallError: a patch does not find what it expects, and as often as it expects it.
    """
    patched = dict(files)
    for patch in patches:
        text = patched.get(patch.path, b"").decode("utf-8")
        pattern = rf"(?<![\w.]){re.escape(patch.old)}(?!\w)"
        text, count = re.subn(pattern, patch.new, text)
        if count != patch.times:
            raise InstallError(
                f"{patch.path}: {patch.old!r} was found {count} times, not {patch.times}. This is "
                "another source than the patches were made for; use --source git"
            )
        note = f"# Changed by trace_d2's tools/install_detectron2.py: {patch.old} -> {patch.new}\n"
        patched[patch.path] = (text + note).encode("utf-8")
    return patched


def build_wheel(files: Mapping[str, bytes], version: str, folder: Path) -> Path:
    """Write a wheel named detectron2 with full metadata into ``folder`` and return its path."""
    info = f"detectron2-{version}.dist-info"
    content = {path: data for path, data in files.items() if path != "LICENSE"}
    content[f"{info}/licenses/LICENSE"] = files["LICENSE"]
    content[f"{info}/METADATA"] = metadata(version).encode("utf-8")
    content[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: trace_d2 (1.0)\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = io.StringIO()
    for path, data in sorted(content.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.write(f"{path},sha256={digest},{len(data)}\n")
    record.write(f"{info}/RECORD,,\n")
    content[f"{info}/RECORD"] = record.getvalue().encode("utf-8")
    wheel = folder / f"detectron2-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in sorted(content.items()):
            archive.writestr(zipfile.ZipInfo(path), data, zipfile.ZIP_DEFLATED)
    return wheel


def metadata(version: str) -> str:
    """Return the wheel's METADATA file."""
    lines = [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {version}",
        "Summary: Platform for object detection and segmentation (Python files only)",
        f"Home-page: {HOMEPAGE}",
        "Author: FAIR",
        "License: Apache-2.0",
        "Requires-Python: >=3.10",
        *(f"Requires-Dist: {requirement}" for requirement in REQUIREMENTS),
    ]
    return "\n".join(lines) + "\n"
