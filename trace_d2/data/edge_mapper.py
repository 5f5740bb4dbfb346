"""From a record with pseudo edges to what an edge predictor is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import detectron2.data.transforms as T
import numpy as np
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager

from trace_d2.data.augmentation import build_edge_augmentations
from trace_d2.data.bad_records import Record, blame
from trace_d2.data.image_mapper import ImageMapper, to_tensor
from trace_d2.data.stem_dicts import PSEUDO_EDGES_KEY
from trace_d2.io.edge_maps import read_ternary
from trace_d2.io.images import Photograph, fit_to_photograph


class TraceEdgeDatasetMapper(ImageMapper):
    """Maps a record of ``DATASETS.TRACE.EDGES`` to an image and its pseudo edges.

    Both are cropped, resized and turned alike; edges by the nearest pixel, so that they stay edge,
    none or ignored. For bad records see ``TolerantMapper``.

    A record has ``file_name`` and ``trace_pseudo_edges_file_name``. It maps to itself with
    ``height`` and ``width`` of the image in its file, ``image`` uint8 (3, R, R) and
    ``pseudo_edges`` int8 (R, R): 1 edge, 0 none, -1 ignored.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        strict: bool = False,
    ) -> None:
        """Arguments as of ``ImageMapper``; ``augmentations`` must give images of one size."""
        super().__init__(is_train, augmentations, image_format, strict)
        self._size: tuple[int, ...] | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Arguments of ``__init__``, from ``INPUT``, ``INPUT.TRACE`` and the backbone's size."""
        return {
            "is_train": is_train,
            "augmentations": build_edge_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "strict": cfg.INPUT.TRACE.STRICT,
        }

    def _map(self, record: Record) -> dict[str, Any]:
        with blame(record):
            photograph = self._read(record, PSEUDO_EDGES_KEY)
            ternary, remarks = _read_edges(record, photograph)
            self._remark(record["file_name"], remarks)
            detection_utils.check_image_size(dict(record), ternary)
        height, width = ternary.shape
        # Detectron2's transforms take uint8: -1 travels as 255.
        image, edges, _ = self._augment(photograph.pixels, ternary.view(np.uint8))
        self._check_size(record, tuple(image.shape[1:]))
        return {
            **record,
            "height": height,
            "width": width,
            "image": image,
            "pseudo_edges": to_tensor(edges.view(np.int8)),
        }

    def _check_size(self, record: Record, size: tuple[int, ...]) -> None:
        """Raise unless all images come out at one size, as those of a batch must."""
        if self._size is None:
            self._size = size
        if size != self._size:
            raise ValueError(
                f"image {record['file_name']} comes out at {size[1]}x{size[0]} pixels, and others "
                f"at {self._size[1]}x{self._size[0]}: set MODEL.TRACE.BACKBONE.RESOLUTION or "
                "INPUT.TRACE.PSEUDO_EDGES.SIZE to the side in pixels that images are to be resized "
                "to"
            )


def _read_edges(record: Record, photograph: Photograph) -> tuple[np.ndarray, list[str]]:
    """int8 (H, W) in the frame of the photograph, and remarks on how it got there."""
    if PSEUDO_EDGES_KEY not in record:
        raise ValueError(
            f"its record has no {PSEUDO_EDGES_KEY}: INPUT.TRACE.MAPPER trace_edges is for data "
            "sets of DATASETS.TRACE.EDGES"
        )
    path = PathManager.get_local_path(record[PSEUDO_EDGES_KEY])
    return fit_to_photograph(read_ternary(path), photograph, path)
