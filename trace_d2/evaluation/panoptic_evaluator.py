"""Panoptic quality of a Detectron2 model, without panopticapi."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

try:
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import DatasetEvaluator
    from detectron2.utils import comm
    from detectron2.utils.file_io import PathManager
except ImportError as error:
    raise ImportError(
        "PanopticQualityEvaluator needs Detectron2, which does not import here "
        f"({error}); run `python tools/install_detectron2.py`. The rest of trace_d2.evaluation "
        "works without it."
    ) from error

from trace_d2.io.atomic import write_json
from trace_d2.io.coco_panoptic import (
    MAX_SEGMENT_ID,
    VOID,
    coco_dataset,
    load_panoptic_json,
    panoptic_annotation,
    read_panoptic_png,
    segments_info,
    write_panoptic_png,
)

from .panoptic_quality import MISSING_POLICIES, missing_predictions, summarize
from .segment_matching import image_counts, missed_counts
from .tables import category_table, quality_table

logger = logging.getLogger(__name__)


class PanopticQualityEvaluator(DatasetEvaluator):
    """Takes the place of Detectron2's ``COCOPanopticEvaluator``: the same results, no panopticapi.

    Each process compares its own images while inference runs; ``evaluate`` only adds up. The data
    set's metadata needs ``panoptic_json``, ``panoptic_root``, ``thing_dataset_id_to_contiguous_id``
    and ``stuff_dataset_id_to_contiguous_id``, and ``label_divisor`` for models that return no
    ``segments_info``.
    """

    def __init__(
        self, dataset_name: str, output_dir: str | Path | None = None, *, missing: str = "error"
    ) -> None:
        """
        Args:
            dataset_name: registered name.
            output_dir: where to write ``panoptic.json`` and ``panoptic/*.png``, as
                ``tools/evaluate_panoptic.py --predictions`` reads them; None writes nothing.
            missing: what an image of the truth without prediction means: ``"error"``, ``"miss"``
                (count its segments as missed) or ``"skip"`` (leave it out).

        Raises:
            ValueError: the metadata lacks a key, the truth is not a panoptic JSON, or ``missing``
                is none of the three.
        """
        if missing not in MISSING_POLICIES:
            raise ValueError(f"missing={missing!r}; choose one of {', '.join(MISSING_POLICIES)}")
        metadata = MetadataCatalog.get(dataset_name)
        keys = ["panoptic_json", "panoptic_root"]
        keys += [f"{kind}_dataset_id_to_contiguous_id" for kind in ("thing", "stuff")]
        absent = [key for key in keys if not hasattr(metadata, key)]
        if absent:
            raise ValueError(
                f"the metadata of {dataset_name!r} lacks {', '.join(absent)}; "
                "register it as a panoptic data set"
            )
        self._metadata = metadata
        self._missing = missing
        self._truth = load_panoptic_json(PathManager.get_local_path(metadata.panoptic_json))
        self._truth_dir = Path(PathManager.get_local_path(metadata.panoptic_root))
        self._rows = {category.id: row for row, category in enumerate(self._truth.categories)}
        self._output_dir = Path(output_dir) if output_dir is not None else None
        if self._output_dir is not None:
            (self._output_dir / "panoptic").mkdir(parents=True, exist_ok=True)
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._counts: dict[Any, np.ndarray] = {}
        self._annotations: dict[Any, dict[str, Any]] = {}

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Compare the predictions of a batch.

        Args:
            inputs: records with ``image_id``.
            outputs: each with ``panoptic_seg``: (H, W) integer tensor, and a list of
                ``{id, category_id (contiguous), isthing}`` or None. None means that pixels are
                contiguous category id x ``label_divisor`` + instance id, and -1 for void.

        Raises:
            ValueError: an image that the truth lacks, or a prediction that contradicts itself.
        """
        for record, output in zip(inputs, outputs, strict=True):
            image_id = record["image_id"]
            if image_id not in self._truth.annotations:
                raise ValueError(
                    f"{self._truth.path} has no image {image_id!r}; check panoptic_json"
                )
            truth = self._truth.annotations[image_id]
            try:
                segment_ids, segments = self._decode(*output["panoptic_seg"])
                counts = image_counts(
                    read_panoptic_png(self._truth_dir / truth["file_name"]),
                    truth["segments_info"],
                    segment_ids,
                    segments,
                    self._rows,
                )
            except ValueError as error:
                raise ValueError(f"image {image_id}: {error}") from error
            self._counts[image_id] = counts
            if self._output_dir is not None:
                name = Path(truth["file_name"]).name
                write_panoptic_png(self._output_dir / "panoptic" / name, segment_ids)
                categories = {segment["id"]: segment["category_id"] for segment in segments}
                self._annotations[image_id] = panoptic_annotation(
                    image_id, name, segments_info(segment_ids, categories)
                )

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """PQ, SQ, RQ with ``_th`` and ``_st``, in per cent, under ``panoptic_seg``.

        All processes must call it; all but the main one get None.

        Raises:
            ValueError: images without prediction under ``missing="error"``.
        """
        comm.synchronize()
        gathered = comm.gather((self._counts, self._annotations))
        if not comm.is_main_process():
            return None
        # By image id, so that an image that a sampler padded a batch with counts once.
        counts = {key: value for part, _ in gathered for key, value in part.items()}
        annotations = {key: value for _, part in gathered for key, value in part.items()}
        if self._output_dir is not None:
            content = coco_dataset(
                self._truth.images, list(annotations.values()), self._truth.categories
            )
            write_json(self._output_dir / "panoptic.json", content)
        absent = missing_predictions(self._truth, counts, self._missing, "the model's output")
        if self._missing == "miss":
            for image_id in absent:
                segments = self._truth.annotations[image_id]["segments_info"]
                counts[image_id] = missed_counts(segments, self._rows)
        quality = summarize(
            np.sum(list(counts.values()), axis=0), self._truth.categories, len(counts), absent
        )
        logger.info("Panoptic quality by category:\n%s", category_table(quality))
        logger.info("Panoptic quality of %d images:\n%s", quality.images, quality_table(quality))
        groups = {"": quality.all, "_th": quality.things, "_st": quality.stuff}
        scores = {
            f"{key.upper()}{suffix}": 100 * getattr(group, key)
            for suffix, group in groups.items()
            for key in ("pq", "sq", "rq")
        }
        return OrderedDict(panoptic_seg=scores)

    def _decode(
        self, panoptic: Any, segments: Sequence[Mapping[str, Any]] | None
    ) -> tuple[np.ndarray, list[dict[str, int]]]:
        """Segment ids (H, W) int32 with void 0, and ``{id, category_id of the data set}`` each."""
        # A copy, as the tensor is the model's; int64, as its own dtype may not hold one more.
        segment_ids = panoptic.cpu().numpy().astype(np.int64)
        if segments is None:
            divisor = self._metadata.label_divisor
            things = set(self._metadata.thing_dataset_id_to_contiguous_id.values())
            segment_ids += 1
            segments = [
                {
                    "id": label,
                    "category_id": (label - 1) // divisor,
                    "isthing": (label - 1) // divisor in things,
                }
                for label in np.unique(segment_ids).tolist()
                if label
            ]
        if segment_ids.min() < VOID or segment_ids.max() > MAX_SEGMENT_ID:
            void = "-1 without segments_info, 0 with it"
            raise ValueError(
                f"panoptic_seg leaves 0..{MAX_SEGMENT_ID}: its void must be {void}, and what it "
                f"holds was read as {segment_ids.min()}..{segment_ids.max()}"
            )
        decoded = [
            {"id": int(segment["id"]), "category_id": self._dataset_id(segment)}
            for segment in segments
        ]
        return segment_ids.astype(np.int32), decoded

    def _dataset_id(self, segment: Mapping[str, Any]) -> int:
        """The data set's category id; a segment without ``isthing`` carries it already."""
        contiguous = int(segment["category_id"])
        if segment.get("isthing") is None:
            return contiguous
        kind = "thing" if segment["isthing"] else "stuff"
        table = getattr(self._metadata, f"{kind}_dataset_id_to_contiguous_id")
        for dataset_id, known in table.items():
            if known == contiguous:
                return int(dataset_id)
        raise ValueError(f"predicted {kind} category {contiguous} is not in the metadata")
