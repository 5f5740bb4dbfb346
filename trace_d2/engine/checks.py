"""What can be known to be wrong before the first iteration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from fvcore.common.config import CfgNode

from trace_d2.complaints import Complaints, check_all
from trace_d2.data.edge_sizes import EdgeAugmentationSettings, training_side
from trace_d2.data.known import UNTOLD, facts
from trace_d2.engine.machine import check_machine
from trace_d2.engine.names import (
    EDGE_EVALUATOR_NAMES,
    EDGE_PREDICTOR,
    EVALUATOR_NAMES,
    MAPPER_NAMES,
    MASK2FORMER,
    RCNN,
    SEMANTIC_ARCHITECTURES,
    SEMANTIC_EVALUATOR_NAMES,
)
from trace_d2.io.categories import Category
from trace_d2.io.hints import did_you_mean

# What evaluators need that a config may switch off: evaluator_type -> (its key, the output).
_MASK2FORMER_SWITCHES = {
    "class_agnostic": ("INSTANCE_ON", "instances"),
    "coco": ("INSTANCE_ON", "instances"),
    "coco_panoptic_seg": ("PANOPTIC_ON", "panoptic segments"),
    **dict.fromkeys(SEMANTIC_EVALUATOR_NAMES, ("SEMANTIC_ON", "semantic maps")),
}


def check_config(cfg: CfgNode, *, train: bool, resume: bool = False) -> None:
    """Raise for a config that cannot work, with the key named.

    Args:
        cfg: the whole config; its data sets are registered.
        train: whether training follows, rather than evaluation only.
        resume: whether the last checkpoint of ``OUTPUT_DIR``, if any, takes the place of
            ``MODEL.WEIGHTS``.

    Raises:
        ValueError: keys that contradict each other, the data sets or the machine.
        FileNotFoundError: the weights are missing.
    """
    # The machine and the data have nothing to do with each other: both are said at once.
    check_all(
        lambda: check_machine(cfg, train=train, resume=resume),
        lambda: check_data(cfg, train=train),
    )


def check_data(cfg: CfgNode, *, train: bool) -> None:
    """The part of ``check_config`` about data sets and what is made of them."""
    if train and not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name a registered data set")
    if not train and not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: there is nothing to evaluate on")
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) if train else cfg.DATASETS.TEST
    wrong = Complaints()
    if not cfg.INPUT.TRACE.CLASS_AGNOSTIC:  # that trains on all things as one class
        number = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        mask2former = cfg.MODEL.META_ARCHITECTURE == MASK2FORMER
        wrong.of(check_categories, list(names), number if mask2former else None)
    if train:
        wrong.of(_check_mapper, cfg)
        wrong.of(_check_edge_training, cfg)
        wrong.of(_check_rcnn_classes, cfg, cfg.DATASETS.TRAIN[0])
    for name in cfg.DATASETS.TEST:
        wrong.of(_check_outputs, cfg, name)
    wrong.end()


def check_categories(
    names: Sequence[str], num_classes: int | None = None, categories: Sequence[Category] = ()
) -> None:
    """Raise unless the data sets ``names`` have the same classes in the same order.

    Data sets of a single class agree whatever they call it. Those that know their classes only
    once they are loaded (Detectron2's ``register_coco_instances`` of unknown files) are passed by.
    ``num_classes`` is what the model is built for; None: not compared. ``categories`` are those
    that it was trained on; empty: not known.
    """
    first: tuple[str, list[tuple[str, bool]]] | None = None
    if categories:
        first = "the model", [(category.name, category.isthing) for category in categories]
    for name in names:
        classes = _classes(name)
        if classes is None:
            continue
        if num_classes is not None and len(classes) != num_classes:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}, but {name} has {len(classes)} "
                f"classes: make it {len(classes)}, or name other data sets in DATASETS"
            )
        first = first or (name, classes)
        if len(classes) == len(first[1]) == 1 or classes == first[1]:
            continue
        pairs = enumerate(zip_longest(first[1], classes, fillvalue="absent"))
        rank, (there, here) = next(pair for pair in pairs if len(set(pair[1])) == 2)
        raise ValueError(
            f"{first[0]} has {len(first[1])} classes and {name} has {len(classes)}; number {rank} "
            f"is {there} there and {here} here (name, is a thing): train and test on data "
            "sets of the same categories"
        )


def _classes(name: str) -> list[tuple[str, bool]] | None:
    """(name, is a thing) of each contiguous class of a registered data set, or None."""
    metadata = facts(name)
    names = metadata.get("thing_classes")
    if names is None:
        return None
    if metadata.get("stuff_classes") is None:
        return [(text, True) for text in names]
    things = set(metadata.get("thing_dataset_id_to_contiguous_id", {}).values())
    return [(text, rank in things) for rank, text in enumerate(metadata["stuff_classes"])]


def _check_rcnn_classes(cfg: CfgNode, dataset_name: str) -> None:
    """R-CNNs say how many classes they have; more in the data would fail at some iteration."""
    if cfg.MODEL.META_ARCHITECTURE != RCNN:
        return
    classes = facts(dataset_name).get("thing_classes", [])
    known = 1 if cfg.INPUT.TRACE.CLASS_AGNOSTIC else len(classes)
    if known and known != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise ValueError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}, but "
            f"{dataset_name!r} has {known}: make it {known}, or name another data set in "
            "DATASETS.TRAIN"
        )


def _check_outputs(cfg: CfgNode, dataset_name: str) -> None:
    """Raise unless the model of ``cfg`` gives what the data set's evaluator looks at."""
    known = facts(dataset_name)
    kind = known.get("evaluator_type")
    if known is UNTOLD:
        return
    if cfg.MODEL.META_ARCHITECTURE == EDGE_PREDICTOR and kind not in EDGE_EVALUATOR_NAMES:
        raise ValueError(
            f"DATASETS.TEST has {dataset_name!r} with evaluator_type {kind!r}, but the edges of "
            f"MODEL.META_ARCHITECTURE {EDGE_PREDICTOR} are evaluated on panoptic truth: name a "
            "data set of DATASETS.TRACE.PANOPTIC or a built-in panoptic one"
        )
    if kind not in EVALUATOR_NAMES:
        raise ValueError(
            f"DATASETS.TEST has {dataset_name!r} with evaluator_type {kind!r}; it must be one of "
            f"{', '.join(EVALUATOR_NAMES)}. A data set without truth cannot be evaluated"
        )
    model = cfg.MODEL.META_ARCHITECTURE
    if kind in SEMANTIC_EVALUATOR_NAMES and model not in SEMANTIC_ARCHITECTURES:
        raise ValueError(
            f"DATASETS.TEST has {dataset_name!r}, which is evaluated by semantic maps, and "
            f"MODEL.META_ARCHITECTURE {model} gives none: name a data set of instances"
        )
    if kind in _MASK2FORMER_SWITCHES and cfg.MODEL.META_ARCHITECTURE == MASK2FORMER:
        key, output = _MASK2FORMER_SWITCHES[kind]
        if not cfg.MODEL.TRACE.MASK2FORMER.TEST[key]:
            raise ValueError(
                f"MODEL.TRACE.MASK2FORMER.TEST.{key} is False, but {dataset_name!r} of "
                f"DATASETS.TEST is evaluated by {output}: switch it on"
            )


def _check_mapper(cfg: CfgNode) -> None:
    """Raise unless ``INPUT.TRACE`` fits itself and the data sets in ``DATASETS.TRAIN``."""
    node = cfg.INPUT.TRACE
    if node.MAPPER not in MAPPER_NAMES:
        raise ValueError(
            f"INPUT.TRACE.MAPPER is one of {', '.join(MAPPER_NAMES)}, not {node.MAPPER!r}"
            f"{did_you_mean(node.MAPPER, MAPPER_NAMES)}"
        )
    for name in cfg.DATASETS.TRAIN:
        if node.MAPPER == "trace" and facts(name).get("evaluator_type") == "sem_seg":
            raise ValueError(
                f"DATASETS.TRAIN has {name!r}, which is semantic truth to evaluate on, without "
                "instances: train on labels, or on masks of DATASETS.TRACE.SEMANTIC"
            )
        wanted = _mapper_of(name, node.MAPPER)
        if wanted != node.MAPPER:
            raise ValueError(f"INPUT.TRACE.MAPPER must be {wanted} for the data set {name!r}")
    if node.MAPPER != "trace" and node.CLASS_AGNOSTIC:
        raise ValueError(
            "INPUT.TRACE.CLASS_AGNOSTIC is for INPUT.TRACE.MAPPER trace; data sets of "
            "DATASETS.TRACE.INSTANCES have a single class already, and those of "
            "DATASETS.TRACE.EDGES none"
        )
    if node.MAPPER == "trace" and node.COPY_PASTE.ENABLED and node.SEMANTIC != "none":
        raise ValueError(
            "INPUT.TRACE.COPY_PASTE.ENABLED pastes instances only: set INPUT.TRACE.SEMANTIC none "
            "and INPUT.TRACE.FORMAT bitmask with it"
        )


def _mapper_of(name: str, asked: str) -> str:
    """The mapper that the data set ``name`` needs: ``asked`` if that will do."""
    metadata = facts(name)
    if metadata.get("pseudo_edges_root"):
        return "trace_edges"
    if metadata.get("evaluator_type") in ("class_agnostic", "coco"):
        return "detectron2"
    if metadata.get("categories"):
        return "trace"
    return "detectron2" if asked == "trace_edges" else asked


def _check_edge_training(cfg: CfgNode) -> None:
    """Raise unless mapper and model both learn edges, or neither."""
    node, model = cfg.INPUT.TRACE, cfg.MODEL.META_ARCHITECTURE
    edges, predictor = node.MAPPER == "trace_edges", model == EDGE_PREDICTOR
    if predictor and not edges:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {EDGE_PREDICTOR} is trained on data sets of "
            f"DATASETS.TRACE.EDGES by INPUT.TRACE.MAPPER trace_edges, not {node.MAPPER}"
        )
    if edges and not predictor:
        raise ValueError(
            "INPUT.TRACE.MAPPER trace_edges, for data sets of DATASETS.TRACE.EDGES, is for "
            f"MODEL.META_ARCHITECTURE {EDGE_PREDICTOR}, not {model}"
        )
    if not edges:
        return
    source = cfg.MODEL.TRACE.EDGES.SOURCE
    if source != "student":
        raise ValueError(
            f"MODEL.TRACE.EDGES.SOURCE is {source!r}, which has nothing to train: set it to student"
        )
    if not cfg.MODEL.TRACE.STUDENT.TRAIN:
        raise ValueError(
            "MODEL.TRACE.STUDENT.TRAIN is False, so that the student would be built for use: set "
            "it to True to train one"
        )
    if node.COPY_PASTE.ENABLED:
        raise ValueError(
            "INPUT.TRACE.COPY_PASTE.ENABLED pastes instances, and INPUT.TRACE.MAPPER trace_edges "
            "gives none: set it to False"
        )
    if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.TRACE.BACKBONE.DTYPE != "float32":
        raise ValueError(
            "SOLVER.AMP.ENABLED runs the denoiser in float16, and MODEL.TRACE.BACKBONE.DTYPE is "
            f"{cfg.MODEL.TRACE.BACKBONE.DTYPE}: set the former to False (bfloat16 weights are "
            "mixed precision already, with adapters and decoder in float32), or use float32"
        )
    training_side(cfg, EdgeAugmentationSettings.from_config(cfg).size)
