"""What configs may name, known before Detectron2 is imported."""

RCNN, MASK2FORMER, EDGE_PREDICTOR = "GeneralizedRCNN", "TraceMask2Former", "TraceEdgePredictor"
"""Values of ``MODEL.META_ARCHITECTURE`` of which checks know more."""

META_ARCHITECTURES = (
    *(RCNN, MASK2FORMER, EDGE_PREDICTOR, "ProposalNetwork", "RetinaNet", "FCOS"),
    *("SemanticSegmentor", "PanopticFPN"),
)
"""Values of ``MODEL.META_ARCHITECTURE``: ours, and those of Detectron2 itself."""

SEMANTIC_ARCHITECTURES = (MASK2FORMER, "SemanticSegmentor", "PanopticFPN")
"""Those of them whose outputs have ``sem_seg``."""

MAPPER_NAMES = ("trace", "detectron2", "trace_edges")
"""Keys of ``builders.MAPPERS``."""

SEMANTIC_EVALUATOR_NAMES = ("sem_seg", "cityscapes_sem_seg")
"""Those that look at ``sem_seg``."""

EVALUATOR_NAMES = (
    *("class_agnostic", "coco", "coco_panoptic_seg", "lvis", "pascal_voc"),
    *SEMANTIC_EVALUATOR_NAMES,
)
"""Keys of ``builders.EVALUATORS``."""

EDGE_EVALUATOR_NAMES = ("coco_panoptic_seg",)
"""Keys of ``builders.EDGE_EVALUATORS``."""
