"""Edge scores of a Detectron2 model against the boundaries of panoptic truth, or of its things."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    from detectron2.data import DatasetCatalog
    from detectron2.evaluation import DatasetEvaluator
    from detectron2.utils import comm
    from detectron2.utils.file_io import PathManager
except ImportError as error:
    raise ImportError(
        f"EdgeEvaluator needs Detectron2, which does not import here ({error}); run `python "
        "tools/install_detectron2.py`. The rest of trace_d2.evaluation works without it."
    ) from error

from trace_d2.io.atomic import write_json
from trace_d2.io.coco_panoptic import read_panoptic_png
from trace_d2.io.edge_maps import check_edges

from .edge_dataset import EdgeEvaluation, EdgeSettings
from .edge_metrics import EdgeCounts, edge_scores
from .edge_report import edge_table
from .edge_truth import TRUTH_KINDS, thing_instances

logger = logging.getLogger(__name__)

RESULTS_FILE = "edge_scores.json"


class EdgeEvaluator(DatasetEvaluator):
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
        self._output_dir = Path(output_dir) if output_dir is not None else None
        self._settings = settings or EdgeSettings()
        things = self._settings.truth_kind == "things"
        self._things = _registered_things(dataset_name) if things else {}
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._counts: dict[str, EdgeCounts] = {}

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Compare the edges of a batch.

        Args:
            inputs: records with ``file_name`` and ``pan_seg_file_name``.
            outputs: each with ``edges``: (H, W) floating-point tensor in 0..1, at the truth's size.

        Raises:
            ValueError: a record without truth, an output without edges, or edges that are of
                another size than the truth, not finite or outside 0..1.
        """
        for record, output in zip(inputs, outputs, strict=True):
            name = str(record["file_name"])
            if "pan_seg_file_name" not in record:
                raise ValueError(
                    f"{name}: its record has no pan_seg_file_name, so there are no true edges; "
                    "evaluate on a panoptic data set"
                )
            if "edges" not in output:
                raise ValueError(
                    f"{name}: the model returned no edges; evaluate a model whose outputs have them"
                )
            edges = check_edges(
                output["edges"].detach().float().cpu().numpy(), f"the model on {name}"
            )
            truth = read_panoptic_png(PathManager.get_local_path(record["pan_seg_file_name"]))
            self._counts[name] = self._settings.count(
                edges, truth, f"the model on {name}", self._things.get(name)
            )

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """ODS, OIS, AP and clDice in per cent under ``edges``; AP is NaN where it does not exist.

        All processes must call it; all but the main one get None.

        Raises:
            ValueError: no image was processed.
        """
        comm.synchronize()
        gathered = comm.gather(self._counts)
        if not comm.is_main_process():
            return None
        # By file, so that an image that a sampler padded a batch with counts once.
        counts = {name: one for part in gathered for name, one in part.items()}
        result = EdgeEvaluation(edge_scores(list(counts.values())), counts, self._settings)
        if self._output_dir is not None:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            write_json(self._output_dir / RESULTS_FILE, result.to_dict())
        scores = result.scores
        table = edge_table({self._dataset_name: scores})
        kind = TRUTH_KINDS[self._settings.truth_kind]
        logger.info("Edges of %d images against the %s:\n%s", scores.images, kind, table)
        values = {"ODS": scores.ods, "OIS": scores.ois, "AP": scores.ap, "clDice": scores.cldice}
        return OrderedDict(edges={key: 100 * value for key, value in values.items()})


def _registered_things(dataset_name: str) -> dict[str, frozenset[int]]:
    """Thing instances of each image, by its file; mappers leave ``segments_info`` out."""
    found = {}
    for record in DatasetCatalog.get(dataset_name):
        name, segments = str(record["file_name"]), record.get("segments_info")
        if segments is None or any("isthing" not in segment for segment in segments):
            raise ValueError(
                f"{dataset_name!r}: the record of {name} has no segments_info with isthing, so "
                'things cannot be told from stuff; evaluate with truth_kind="panoptic"'
            )
        found[name] = thing_instances(segments)
    return found
