"""Mean IoU of Detectron2 models whose outputs have ``sem_seg``."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

try:
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.utils import comm
    from detectron2.utils.file_io import PathManager
except ImportError as error:
    raise ImportError(
        f"{__name__} needs Detectron2, which does not import here ({error}); run `python "
        "tools/install_detectron2.py`. trace_d2.evaluation.semantic works without it."
    ) from error

from trace_d2.complaints import Complaints
from trace_d2.io.categories import Category, parse_categories
from trace_d2.io.images import read_semantic
from trace_d2.io.listing import spread
from trace_d2.io.semantic_rules import TruthFiles

from .evaluators import GatheringEvaluator
from .semantic import SemanticQuality, check_values, confusion_matrix, summarize
from .semantic_files import check_missing
from .tables import semantic_class_table, semantic_table

logger = logging.getLogger(__name__)

_LOOKED_AT = 16  # maps, before a model is


class SemanticEvaluator(GatheringEvaluator):
    """Takes the place of Detectron2's ``SemSegEvaluator``: the same results, with truth checked.

    Truth that holds other values than classes, or is of another size, is named instead of counted;
    classes may be things and stuff in one range. The data set's records need ``sem_seg_file_name``,
    8-bit PNGs of contiguous ids, and its metadata ``stuff_classes`` and ``ignore_label``.
    """

    def __init__(self, dataset_name: str, output_dir: str | Path | None = None) -> None:
        """
        Args:
            dataset_name: registered name.
            output_dir: where to write ``semantic_results.json``, what
                ``tools/evaluate_semantic.py --json`` writes too; None writes nothing.

        Raises:
            ValueError: metadata or records lack a key, or maps of the truth hold what is no class.
            OSError: one of them is not there.
        """
        metadata = MetadataCatalog.get(dataset_name).as_dict()
        records = DatasetCatalog.get(dataset_name)
        keys = [key for key in ("stuff_classes", "ignore_label") if key not in metadata]
        keys += ["sem_seg_file_name"] * any("sem_seg_file_name" not in one for one in records)
        if keys:
            raise ValueError(
                f"{dataset_name!r} lacks {', '.join(keys)} in its metadata or records: register it "
                "as a semantic data set"
            )
        self._dataset_name = dataset_name
        self._classes = _classes(dataset_name, metadata["stuff_classes"])
        ignored = frozenset({metadata["ignore_label"]} & set(range(256)))
        self._table = TruthFiles("", tuple(range(len(self._classes))), ignored).ranks()
        self._truth = {str(one["file_name"]): one["sem_seg_file_name"] for one in records}
        if comm.is_main_process():
            wrong = Complaints()
            for path in spread(list(self._truth.values()), _LOOKED_AT):
                wrong.of(self._read, path)
            wrong.end()
        super().__init__(output_dir)

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Any]) -> None:
        """Count the predictions of a batch.

        Args:
            inputs: records with ``file_name``.
            outputs: each with ``sem_seg``: (C, H, W) tensor of scores, at the truth's size.
        """
        for record, output in zip(inputs, outputs, strict=True):
            name = str(record["file_name"])
            scores = output.get("sem_seg")
            if scores is None or len(scores) != len(self._classes):
                raise ValueError(
                    f"{name}: the model returned {'no' if scores is None else len(scores)} maps of "
                    f"scores (sem_seg), and {self._dataset_name!r} has {len(self._classes)} "
                    "classes: evaluate a model of these classes"
                )
            predicted = scores.argmax(dim=0).cpu().numpy()
            truth = self._read(self._truth[name])
            try:
                counts = confusion_matrix(truth, predicted, len(self._classes))
            except ValueError as error:
                raise ValueError(f"{self._truth[name]} and {name}: {error}") from error
            cells = np.nonzero(counts)
            self._results[name] = *cells, counts[cells]

    def _read(self, path: str) -> np.ndarray:
        """Ranks of classes int16 (H, W), ``NO_CLASS`` where ignored."""
        values = read_semantic(PathManager.get_local_path(path))
        present = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
        remedy = f"{self._dataset_name!r} has: give maps of contiguous ids"
        check_values(self._table, present, path, remedy)
        return self._table[values]

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """As Detectron2, in per cent under ``sem_seg``: mIoU, fwIoU, mACC, pACC, and IoU and ACC of
        each class, NaN where the truth does not have it.
        """
        results = self._gathered()
        if results is None:
            return None
        check_missing(
            [name for name in self._truth if name not in results],
            len(self._truth),
            "error",
            "the model's output",
        )
        total = np.zeros((len(self._classes), len(self._classes) + 1), np.int64)
        for rows, columns, pixels in results.values():
            total[rows, columns] += pixels
        quality = summarize(total, self._classes, len(results))
        self._write("semantic_results.json", {"rule": None, **quality.to_dict()}, indent=1)
        table = semantic_table({self._dataset_name: quality})
        logger.info("IoU by class:\n%s", semantic_class_table(quality))
        logger.info("Mean IoU of %d images:\n%s", quality.images, table)
        return OrderedDict(sem_seg=_scores(quality))


def _classes(dataset_name: str, names: Sequence[str]) -> tuple[Category, ...]:
    """Classes whose ids are contiguous, whatever those of the data set are."""
    entries = [{"id": rank, "name": name, "isthing": 0} for rank, name in enumerate(names)]
    return parse_categories(entries, f"stuff_classes of {dataset_name!r}")


def _scores(quality: SemanticQuality) -> dict[str, float]:
    """In per cent by Detectron2's names, in its order."""
    own = {c.name: quality.per_class[c.id] for c in quality.classes}
    scores = {"mIoU": quality.miou, "fwIoU": quality.fwiou}
    scores |= {f"IoU-{name}": one.iou if one.truth else np.nan for name, one in own.items()}
    scores |= {"mACC": quality.macc, "pACC": quality.pacc}
    scores |= {f"ACC-{name}": one.accuracy for name, one in own.items()}
    return {name: 100 * value for name, value in scores.items()}
