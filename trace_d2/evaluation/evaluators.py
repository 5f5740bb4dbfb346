"""The scores of Detectron2 models: panoptic quality, class-agnostic AP and AR, scores of edges."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

try:
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import DatasetEvaluator
    from detectron2.evaluation.coco_evaluation import instances_to_coco_json
    from detectron2.utils import comm
    from detectron2.utils.file_io import PathManager
except ImportError as error:
    raise ImportError(
        f"{__name__} needs Detectron2, which does not import here ({error}); run `python "
        "tools/install_detectron2.py`. The rest of trace_d2.evaluation works without it."
    ) from error

from trace_d2.io.agreement import warn_of_disagreements
from trace_d2.io.atomic import write_json
from trace_d2.io.coco_instances import InstanceFile
from trace_d2.io.coco_panoptic import (
    coco_dataset,
    load_panoptic_json,
    panoptic_annotation,
    read_panoptic_png,
    segments_info,
    write_panoptic_png,
)
from trace_d2.io.edge_maps import check_edges
from trace_d2.io.joining import ImageNames, same_image
from trace_d2.io.json_files import shown
from trace_d2.io.paths import file_below

from .edge_metrics import edge_scores
from .edges import TRUTH_KINDS, EdgeEvaluation, EdgeSettings, things_of_records
from .instances import DETECTIONS, class_agnostic_ap, read_scored_truth, scored_kinds
from .panoptic import (
    CONSEQUENCE,
    MISSING_POLICIES,
    decode_prediction,
    missing_predictions,
    summarize,
)
from .segment_matching import match_segments, missed_counts
from .tables import category_table, class_agnostic_table, edge_table, quality_table

logger = logging.getLogger(__name__)

_Records = Sequence[Mapping[str, Any]]


class GatheringEvaluator(DatasetEvaluator):
    """Keeps what each image gave, by its id or name, and a folder for files, which may be None.

    ``evaluate`` must be called by all processes; all but the main one get None.
    """

    def __init__(self, output_dir: str | Path | None) -> None:
        self._output_dir = Path(output_dir) if output_dir is not None else None
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._results: dict[Any, Any] = {}

    def _gathered(self) -> dict[Any, Any] | None:
        """The results of all processes in the main one; None in the others.

        They are by image, so that one that a sampler padded a batch with counts once.
        """
        comm.synchronize()
        gathered = comm.gather(self._results)
        if not comm.is_main_process():
            return None
        return {key: result for part in gathered for key, result in part.items()}

    def _write(self, name: str, content: Any, indent: int | None = None) -> None:
        if self._output_dir is not None:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            write_json(self._output_dir / name, content, indent)


class PanopticQualityEvaluator(GatheringEvaluator):
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
        pngs = [one["file_name"] for one in self._truth.annotations.values()]
        self._flat = len({Path(name).name for name in pngs}) == len(pngs)
        super().__init__(output_dir)

    def process(self, inputs: _Records, outputs: _Records) -> None:
        """Compare the predictions of a batch.

        Args:
            inputs: records with ``image_id``.
            outputs: each with ``panoptic_seg``: (H, W) integer tensor, and a list of
                ``{id, category_id (contiguous), isthing}`` or None. None means that pixels are
                contiguous category id x ``label_divisor`` + instance id, and -1 for void.
        """
        for record, output in zip(inputs, outputs, strict=True):
            image_id = record["image_id"]
            truth = self._truth_of(record)
            try:
                panoptic, segments = output["panoptic_seg"]
                segment_ids, segments = decode_prediction(
                    panoptic.cpu().numpy(), segments, self._metadata
                )
                counts, disagreement, _ = match_segments(
                    read_panoptic_png(
                        file_below(self._truth_dir, truth["file_name"]),
                        self._truth.sizes.get(image_id),
                        "the JSON of the truth",
                    ),
                    truth["segments_info"],
                    segment_ids,
                    segments,
                    self._rows,
                )
            except ValueError as error:
                raise ValueError(f"image {shown(image_id)}: {error}") from error
            annotation = None
            if self._output_dir is not None:
                name = Path(truth["file_name"]).name if self._flat else truth["file_name"]
                path = self._output_dir / "panoptic" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write_panoptic_png(path, segment_ids)
                categories = {segment["id"]: segment["category_id"] for segment in segments}
                found = segments_info(segment_ids, categories)
                annotation = panoptic_annotation(image_id, name, found)
            self._results[image_id] = counts, annotation, disagreement

    def _truth_of(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The true annotation of a record, whose id must not be that of another image."""
        image_id, path = record["image_id"], self._truth.path
        if image_id not in self._truth.annotations:
            raise ValueError(f"{path} has no image {image_id!r}; check panoptic_json")
        name = record.get("file_name")
        given = ImageNames("the data set", {image_id: name})
        if name and not same_image(self._truth.names, given, image_id):
            raise ValueError(
                f"image {shown(image_id)} is {shown(self._truth.names.names[image_id])} in {path} "
                f"and {shown(name)} in the data set; check panoptic_json: it must be of the data "
                "set's own images"
            )
        return self._truth.annotations[image_id]

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """PQ, SQ, RQ with ``_th`` and ``_st``, in per cent, under ``panoptic_seg``."""
        results = self._gathered()
        if results is None:
            return None
        annotations = [annotation for _, annotation, _ in results.values()]
        categories = self._truth.categories
        self._write("panoptic.json", coco_dataset(self._truth.images, annotations, categories))
        counts = {key: own for key, (own, _, _) in results.items()}
        disagreements = {key: own for key, (_, _, own) in results.items()}
        warn_of_disagreements(str(self._truth.path), disagreements, CONSEQUENCE)
        absent = missing_predictions(self._truth, counts, self._missing, "the model's output")
        if self._missing == "miss":
            for image_id in absent:
                segments = self._truth.annotations[image_id]["segments_info"]
                counts[image_id] = missed_counts(segments, self._rows)
        total = np.sum(list(counts.values()), axis=0)
        quality = summarize(total, categories, len(counts), absent)
        logger.info("Panoptic quality by category:\n%s", category_table(quality))
        logger.info("Panoptic quality of %d images:\n%s", quality.images, quality_table(quality))
        groups = {"": quality.all, "_th": quality.things, "_st": quality.stuff}
        scores = {
            f"{key.upper()}{suffix}": 100 * getattr(group, key)
            for suffix, group in groups.items()
            for key in ("pq", "sq", "rq")
        }
        return OrderedDict(panoptic_seg=scores)


class ClassAgnosticEvaluator(GatheringEvaluator):
    """Scores ``Instances`` against a COCO file with all categories as one, as CutLER does.

    The data set's metadata needs ``json_file``; ``max_detections`` there says how many predictions
    of an image count (none: 100). Predicted classes are not looked at.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        iou_types: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            dataset_name: registered name.
            output_dir: where to write ``coco_instances_results.json`` (the list of results that
                ``tools/make_self_training.py`` reads, category 1) and
                ``class_agnostic_results.json``; None writes nothing.
            iou_types: "segm", "bbox" or both; None: both, or boxes alone of data sets of which
                objects have no masks. Models that predict no masks get boxes alone, too.

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
        self._truth: InstanceFile | None = None
        self._iou_types: tuple[str, ...] = ()
        self._max_detections: int = metadata.get("max_detections", DETECTIONS)
        if comm.is_main_process():  # which alone scores; read now, so that faults are found early
            path = PathManager.get_local_path(metadata.json_file)
            self._truth = read_scored_truth(path, iou_types)
            self._iou_types = scored_kinds(self._truth, iou_types)
            if not self._truth.has_masks:
                logger.warning("%s lacks masks: boxes alone are scored", path)
        super().__init__(output_dir)

    def process(self, inputs: _Records, outputs: _Records) -> None:
        """Keep the predictions of a batch, masks as RLE.

        Args:
            inputs: records with ``image_id``.
            outputs: each with ``instances``: ``Instances`` with ``pred_boxes``, ``scores``,
                ``pred_classes`` and, where masks are scored, ``pred_masks`` (N, H, W) bool.
        """
        for record, output in zip(inputs, outputs, strict=True):
            image_id = record["image_id"]
            if "instances" not in output:
                raise ValueError(
                    f"image {image_id}: the model returned no instances; evaluate a model whose "
                    "outputs have them"
                )
            instances = output["instances"].to("cpu")
            rows = instances_to_coco_json(instances, image_id)
            rows = [row | {"category_id": 1} for row in rows]
            name = record.get("file_name")
            self._results[image_id] = rows, instances.has("pred_masks"), name

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """AP, AP50, AP75, APs, APm, APl, AR_1, AR_10, AR_100 ... in per cent, by "segm", "bbox".

        NaN where the truth has no object of a size.
        """
        gathered = self._gathered()
        if self._truth is None or gathered is None:
            return None
        results = [row for rows, _, _ in gathered.values() for row in rows]
        masked = all(masks for _, masks, _ in gathered.values())
        named = {key: name for key, (_, _, name) in gathered.items() if name}
        images = [{"id": key, "file_name": name} for key, name in named.items()]
        self._write("coco_instances_results.json", results)
        kinds = [kind for kind in self._iou_types if kind == "bbox" or masked]
        # With the names of the files that were predicted on, which must be those of the truth.
        predictions = {"images": images, "annotations": results}
        result = class_agnostic_ap(
            self._truth, predictions, kinds, max_detections=self._max_detections
        )
        self._write("class_agnostic_results.json", result.to_dict(), indent=1)
        table = "\n".join([class_agnostic_table(result), *result.remarks])
        logger.info("Class-agnostic AP and AR of %d images:\n%s", result.images, table)
        return OrderedDict(
            (kind, {name: 100 * value for name, value in scores.items()})
            for kind, scores in result.scores.items()
        )


class EdgeEvaluator(GatheringEvaluator):
    """ODS, OIS, AP and clDice of models whose outputs have ``edges``.

    The truth of an image is the panoptic PNG that its record names. Each process counts its own
    images while inference runs; ``evaluate`` only adds up.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        settings: EdgeSettings | None = None,
    ) -> None:
        """
        Args:
            dataset_name: registered name; the row of the logged table.
            output_dir: where to write ``edge_scores.json``, what ``tools/evaluate_edges.py
                --output`` writes too; None writes nothing.
            settings: None: those of BSDS. With ``truth_kind`` ``"things"`` the registered records
                must have ``segments_info`` with ``isthing``, as those of panoptic data sets have.

        Raises:
            ValueError: they have not.
            KeyError: the truth is of things, and ``dataset_name`` is not registered.
        """
        self._dataset_name = dataset_name
        self._settings = settings or EdgeSettings()
        self._things: dict[str, frozenset[int]] = {}
        if self._settings.truth_kind == "things":
            self._things = things_of_records(DatasetCatalog.get(dataset_name), dataset_name)
        super().__init__(output_dir)

    def process(self, inputs: _Records, outputs: _Records) -> None:
        """Compare the edges of a batch.

        Args:
            inputs: records with ``file_name`` and ``pan_seg_file_name``.
            outputs: each with ``edges``: (H, W) floating-point tensor in 0..1, at the truth's size.
        """
        for record, output in zip(inputs, outputs, strict=True):
            name = str(record["file_name"])
            origin = f"the model on {name}"
            if "pan_seg_file_name" not in record:
                raise ValueError(
                    f"{name}: its record has no pan_seg_file_name, so there are no true edges; "
                    "evaluate on a panoptic data set"
                )
            if "edges" not in output:
                raise ValueError(
                    f"{name}: the model returned no edges; evaluate a model whose outputs have them"
                )
            edges = check_edges(output["edges"].detach().float().cpu().numpy(), origin)
            truth = read_panoptic_png(PathManager.get_local_path(record["pan_seg_file_name"]))
            things = self._things.get(name)
            if things and not np.isin(truth, list(things)).any():
                raise ValueError(
                    f"{record['pan_seg_file_name']} holds none of the things that the record of "
                    f"{name} lists: give the PNGs that belong to the JSON, or make both again"
                )
            self._results[name] = self._settings.count(edges, truth, origin, things)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """ODS, OIS, AP (NaN where it does not exist) and clDice in per cent under ``edges``."""
        counts = self._gathered()
        if counts is None:
            return None
        result = EdgeEvaluation(edge_scores(list(counts.values())), counts, self._settings)
        self._write("edge_scores.json", result.to_dict())
        scores = result.scores
        table = edge_table({self._dataset_name: scores})
        kind = TRUTH_KINDS[self._settings.truth_kind]
        logger.info("Edges of %d images against the %s:\n%s", scores.images, kind, table)
        values = {"ODS": scores.ods, "OIS": scores.ois, "AP": scores.ap, "clDice": scores.cldice}
        return OrderedDict(edges={key: 100 * value for key, value in values.items()})
