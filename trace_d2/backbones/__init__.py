"""Backbones: networks whose self-attention is read; diffusion models are one kind of them.

>>> from trace_d2.config import get_trace_cfg
>>> from trace_d2.backbones import build_backbone
>>> cfg = get_trace_cfg()
>>> cfg.MODEL.TRACE.BACKBONE.NAME = "trace-tiny"
>>> backbone = build_backbone(cfg)  # doctest: +SKIP

Names (``__init__.pyi`` lists them) are imported at their first use: what is known of a backbone
before it is loaded does without PyTorch.
"""

import lazy_loader

from . import import_remarks  # noqa: F401 -- before diffusers is imported

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
