"""Where edges to score come from: a folder of files, or a baseline run on a folder of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from trace_d2.edges.baselines import BASELINES
from trace_d2.io.edge_maps import find_edges, read_edges
from trace_d2.io.images import read_image
from trace_d2.io.listing import list_images

BASELINE_NAMES = tuple(BASELINES)


class EdgesToScore(Protocol):
    """Edge maps by the stem of their image; goes to other processes by pickle."""

    def missing(self, stems: Iterable[str]) -> list[str]:
        """Those of ``stems`` that there are no edges of."""

    def read(self, stem: str) -> tuple[np.ndarray, str]:
        """Edge strength (H, W) float32 in 0..1, and where it is from, for messages."""


@dataclass(frozen=True)
class EdgeFolder:
    """``<stem>.png`` or ``<stem>.npy`` in ``folder``, as ``trace_d2.io.edge_maps`` reads them.

    Raises:
        NotADirectoryError: there is no such folder.
    """

    folder: Path

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise NotADirectoryError(f"no folder of edges at {self.folder}: correct the path")

    def missing(self, stems: Iterable[str]) -> list[str]:
        """Those of ``stems`` that have no file."""
        return [
            stem
            for stem in stems
            if not any((self.folder / f"{stem}{end}").is_file() for end in (".png", ".npy"))
        ]

    def read(self, stem: str) -> tuple[np.ndarray, str]:
        """The edges of ``stem`` and their file.

        Raises:
            FileNotFoundError, ValueError: there is no file, or a faulty one.
        """
        path = find_edges(self.folder, stem)
        return read_edges(path), str(path)


class BaselineEdges:
    """Edges of a baseline, found in the images of a folder."""

    def __init__(self, name: str, folder: Path) -> None:
        """
        Args:
            name: one of ``BASELINE_NAMES``.
            folder: of images.

        Raises:
            ValueError, NotADirectoryError: an unknown name, or a folder without images.
        """
        if name not in BASELINE_NAMES:
            raise ValueError(f"no baseline {name!r}; choose one of {', '.join(BASELINE_NAMES)}")
        self.name = name
        self.folder = folder
        self._files = list_images(folder)

    def missing(self, stems: Iterable[str]) -> list[str]:
        """Those of ``stems`` that have no image."""
        return [stem for stem in stems if stem not in self._files]

    def read(self, stem: str) -> tuple[np.ndarray, str]:
        """The baseline's edges of ``stem``, and the image they were found in.

        Raises:
            FileNotFoundError, ValueError: the image is not there, or faulty.
        """
        path = self.folder / self._files[stem]
        return BASELINES[self.name](read_image(path).pixels, stem).edges, str(path)
