"""What makes the package a Detectron2 plugin.

``register`` runs by itself: when ``trace_d2`` is imported after Detectron2, and when
``trace_d2.add_trace_config`` gets a Detectron2 config. It registers the package's
modules and data sets, and lets ``detectron2.modeling.build_model`` obey
``MODEL.TRACE.POSTPROCESSOR.ENABLED`` and ``MODEL.TRACE.CATEGORIES``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import detectron2.modeling.meta_arch.build as meta_arch_build
from detectron2.utils.registry import Registry


def register() -> None:
    """Register everything with Detectron2; a second call does nothing."""
    import trace_d2.data.builtin_datasets
    import trace_d2.modeling  # noqa: F401

    registry = meta_arch_build.META_ARCH_REGISTRY
    if not isinstance(registry, PostProcessedRegistry):
        meta_arch_build.META_ARCH_REGISTRY = PostProcessedRegistry(registry)


class PostProcessedRegistry(Registry):
    """Meta-architectures that get the post-processor when the config asks for it.

    Classes that the config names are told to the metadata of its data sets, as far as those are
    not registered: a trained model needs none of its labels.

    ``build_model`` looks its registry up in its own module, so that replacing it there reaches
    every architecture, every caller and no other user of the registry.

    Args:
        original: the registry; names that are registered with either are known to both.
    """

    def __init__(self, original: Registry) -> None:
        super().__init__(original._name)
        self._obj_map = original._obj_map

    def get(self, name: str) -> Callable[[Any], Any]:
        """``cfg`` -> the model of that name.

        Raises:
            KeyError: nothing of that name is registered.
        """
        architecture = super().get(name)

        @functools.wraps(architecture, updated=())
        def build(cfg: Any) -> Any:
            # Configs without add_trace_config, and those of Detectron2's lazy kind, lack the node.
            trace = cfg.MODEL.get("TRACE")
            if trace is None:
                return architecture(cfg)
            from trace_d2.data.categories import name_classes
            from trace_d2.modeling.postprocessor import with_postprocessor

            name_classes(cfg)
            model = architecture(cfg)
            return with_postprocessor(model, cfg) if trace.POSTPROCESSOR.ENABLED else model

        return build
