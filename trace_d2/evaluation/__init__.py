"""Panoptic quality, mean IoU, class-agnostic AP and AR, scores of edges, and their tables.

The Detectron2 evaluators are in ``evaluators``, which is imported by name because it needs it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
