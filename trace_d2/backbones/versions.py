"""The oldest versions that models can be loaded with."""

from __future__ import annotations

import importlib.metadata
import re

# As in setup.py; pip may have been told otherwise. diffusers and transformers take the "dtype" of a
# model since these, and these are the first of the others that they work with.
OLDEST = {"accelerate": "1.2", "diffusers": "0.40", "peft": "0.18", "transformers": "5.0"}


def check_versions() -> None:
    """Raise an ImportError that names packages older than ``OLDEST``."""
    old = []
    for package, oldest in OLDEST.items():
        version = importlib.metadata.version(package)
        if _numbers(version) < _numbers(oldest):
            old.append(f"{package} {version} (needed: {oldest})")
    if old:
        wanted = " ".join(f"'{package}>={oldest}'" for package, oldest in OLDEST.items())
        raise ImportError(f"too old for trace_d2: {', '.join(old)}. Run `pip install {wanted}`")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
