"""What the edges of a training set mean, measured on a sample of its records."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectron2.data import DatasetCatalog
from tqdm import tqdm

from trace_d2.data.bad_records import BadRecordError
from trace_d2.io.categories import Category
from trace_d2.io.images import Sample
from trace_d2.jobs.kinds.calibrating import SAMPLE_IMAGES, draw
from trace_d2.propagation.calibration import (
    EdgeCalibration,
    EdgeStatistics,
)

if TYPE_CHECKING:
    from detectron2.config import CfgNode

logger = logging.getLogger(__name__)


def calibrate_records(
    cfg: CfgNode, categories: Sequence[Category], load: Callable[[dict[str, Any]], Sample]
) -> EdgeCalibration | None:
    """The calibration of the edges of ``cfg.DATASETS.TRAIN``; None where none is needed.

    Args:
        cfg: a Detectron2 config with the ``TRACE`` keys.
        categories: of the semantic masks.
        load: from a record to its mask and edges; a BadRecordError skips it.

    Raises:
        FileNotFoundError, ValueError: ``MODEL.TRACE.EDGES.CALIBRATION`` cannot be read.
    """
    trace = cfg.MODEL.TRACE
    if trace.LABELS.CUT != "basins" or cfg.INPUT.TRACE.EDGES == "none":
        return None
    if trace.EDGES.CALIBRATION:
        return EdgeCalibration.load(trace.EDGES.CALIBRATION)
    missing = [name for name in cfg.DATASETS.TRAIN if name not in DatasetCatalog.list()]
    if missing:
        logger.warning("%s is not registered: edges are measured image by image", missing[0])
        return None
    statistics = EdgeStatistics()
    isthing = {category.id: bool(category.isthing) for category in categories}
    for record in tqdm(_sample(cfg), desc="measuring edges", unit="image", leave=False):
        try:
            sample = load(record)
        except BadRecordError as error:
            logger.warning("not measured: %s", error)
            continue
        if sample.edges is not None:
            statistics.add_semantic(sample.semantic, isthing, sample.edges)
    calibration = statistics.calibrate()
    logger.info(
        "edges measured on %d images: trust %.2f of 1", statistics.images, calibration.trust
    )
    return calibration


def _sample(cfg: CfgNode) -> list[dict[str, Any]]:
    """The records to measure on: they hang on the seed and on names, not on the order."""
    records = [record for name in cfg.DATASETS.TRAIN for record in DatasetCatalog.get(name)]

    def rank(record: dict[str, Any]) -> tuple[int, str]:
        stem = Path(record["file_name"]).stem
        return draw(cfg.MODEL.TRACE.SEED, stem), record["file_name"]

    return sorted(sorted(records, key=rank)[:SAMPLE_IMAGES], key=lambda r: str(r["file_name"]))
