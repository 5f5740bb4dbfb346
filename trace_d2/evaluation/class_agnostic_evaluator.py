"""Class-agnostic AP and AR of a Detectron2 model."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import DatasetEvaluator
    from detectron2.evaluation.coco_evaluation import instances_to_coco_json
    from detectron2.utils import comm
    from detectron2.utils.file_io import PathManager
except ImportError as error:
    raise ImportError(
        "ClassAgnosticEvaluator needs Detectron2, which does not import here "
        f"({error}); run `python tools/install_detectron2.py`. The rest of trace_d2.evaluation "
        "works without it."
    ) from error

from trace_d2.io.atomic import write_json
from trace_d2.io.coco_instances import InstanceFile, read_truth

from .class_agnostic import IOU_TYPES, class_agnostic_ap
from .tables import class_agnostic_table

logger = logging.getLogger(__name__)

RESULTS_FILE = "coco_instances_results.json"
SCORES_FILE = "class_agnostic_results.json"


class ClassAgnosticEvaluator(DatasetEvaluator):
    """Scores ``Instances`` against a COCO file with all categories as one, as CutLER does.

    The data set's metadata needs ``json_file``. Predicted classes are not looked at.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        iou_types: Sequence[str] = IOU_TYPES,
    ) -> None:
        """
        Args:
            dataset_name: registered name.
            output_dir: where to write ``coco_instances_results.json`` (the list of results that
                ``tools/make_self_training.py`` reads, category 1) and
                ``class_agnostic_results.json``; None writes nothing.
            iou_types: "segm", "bbox" or both. Models that predict no masks, and data sets
                without any, get boxes only.

        Raises:
            ValueError: the metadata has no ``json_file``, or the file is faulty.
            OSError: the file cannot be read.
        """
        metadata = MetadataCatalog.get(dataset_name)
        if not hasattr(metadata, "json_file"):
            raise ValueError(
                f"the metadata of {dataset_name!r} has no json_file; register it as a COCO "
                "instance data set"
            )
        self._iou_types = tuple(iou_types)
        self._truth: InstanceFile | None = None
        if comm.is_main_process():  # which alone scores; read now, so that faults are found early
            self._truth = self._read_truth(PathManager.get_local_path(metadata.json_file))
        self._output_dir = Path(output_dir) if output_dir is not None else None
        self.reset()

    def _read_truth(self, path: str) -> InstanceFile:
        """The truth; leaves "segm" out if it has no masks."""
        truth = read_truth(path, masks=False)
        unmasked = [row for row in truth.annotations if "segmentation" not in row]
        if unmasked and "segm" in self._iou_types:
            if len(unmasked) < len(truth.annotations) or "bbox" not in self._iou_types:
                raise ValueError(
                    f"{path}: {len(unmasked)} of {len(truth.annotations)} annotations have no "
                    f"mask, such as one of image {unmasked[0]['image_id']}: give all of them one, "
                    "or none"
                )
            logger.warning("%s has no masks: boxes alone are scored", path)
            self._iou_types = tuple(kind for kind in self._iou_types if kind != "segm")
        return truth

    def reset(self) -> None:
        """Forget all predictions."""
        self._predictions: dict[Any, list[dict[str, Any]]] = {}
        self._masks = True

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keep the predictions of a batch, masks as RLE.

        Args:
            inputs: records with ``image_id``.
            outputs: each with ``instances``: ``Instances`` with ``pred_boxes``, ``scores``,
                ``pred_classes`` and, where masks are scored, ``pred_masks`` (N, H, W) bool.

        Raises:
            ValueError: an output without ``instances``.
        """
        for record, output in zip(inputs, outputs, strict=True):
            if "instances" not in output:
                raise ValueError(
                    f"image {record['image_id']}: the model returned no instances; evaluate a "
                    "model whose outputs have them"
                )
            instances = output["instances"].to("cpu")
            self._masks &= instances.has("pred_masks")
            rows = instances_to_coco_json(instances, record["image_id"])
            self._predictions[record["image_id"]] = [row | {"category_id": 1} for row in rows]

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """AP, AP50, AP75, APs, APm, APl, AR_1, AR_10, AR_100 ... in per cent, by "segm", "bbox".

        NaN where the truth has no object of a size. All processes must call it; all but the main
        one get None.

        Raises:
            ValueError: a prediction of an image that the truth lacks, or a mask of another size.
        """
        comm.synchronize()
        gathered = comm.gather((self._predictions, self._masks))
        if self._truth is None or not comm.is_main_process():
            return None
        # By image id, so that an image that a sampler padded a batch with counts once.
        by_image = {key: rows for part, _ in gathered for key, rows in part.items()}
        results = [row for rows in by_image.values() for row in rows]
        kinds = [kind for kind in self._iou_types if kind == "bbox" or all(m for _, m in gathered)]
        if self._output_dir is not None:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            write_json(self._output_dir / RESULTS_FILE, results)
        result = class_agnostic_ap(self._truth, results, kinds)
        if self._output_dir is not None:
            write_json(self._output_dir / SCORES_FILE, result.to_dict(), indent=1)
        logger.info(
            "Class-agnostic AP and AR of %d images:\n%s",
            result.images,
            class_agnostic_table(result),
        )
        return OrderedDict(
            (kind, {name: 100 * value for name, value in scores.items()})
            for kind, scores in result.scores.items()
        )
