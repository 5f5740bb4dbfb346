"""What configs may name, known before Detectron2 is imported."""

RCNN, MASK2FORMER, EDGE_PREDICTOR = "GeneralizedRCNN", "TraceMask2Former", "TraceEdgePredictor"
"""Values of ``MODEL.META_ARCHITECTURE`` of which checks know more."""

META_ARCHITECTURES = (
    *(RCNN, MASK2FORMER, EDGE_PREDICTOR, "ProposalNetwork", "RetinaNet", "FCOS"),
    *("SemanticSegmentor", "PanopticFPN"),
)
"""Values of ``MODEL.META_ARCHITECTURE``: ours, and those of Detectron2 itself."""

MAPPER_NAMES = ("trace", "detectron2", "trace_edges")
"""Keys of ``builders.MAPPERS``."""

EVALUATOR_NAMES = ("class_agnostic", "coco", "coco_panoptic_seg", "lvis", "pascal_voc")
"""Keys of ``builders.EVALUATORS``."""

EDGE_EVALUATOR_NAMES = ("coco_panoptic_seg",)
"""Keys of ``builders.EDGE_EVALUATORS``."""
