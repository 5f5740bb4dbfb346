"""TRACE: instance edges from diffusion models, as a Detectron2 plugin.

``import trace_d2`` is light: each public name (``__init__.pyi`` lists them) is imported at its
first use. Those that need Detectron2 say how to install it when it is missing; all others do
without it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import lazy_loader

from trace_d2._version import __version__

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

_import, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__", "add_trace_config"]


def __dir__() -> list[str]:
    """Public names, those included that were not used yet."""
    return __all__


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562).

    Raises:
        AttributeError: the package has no such name.
        ImportError: the name needs Detectron2, which is not installed.
    """
    try:
        return _import(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "detectron2":
            raise
        raise ImportError(
            f"trace_d2.{name} needs Detectron2, which is not installed: "
            "run `python tools/install_detectron2.py`"
        ) from error


def add_trace_config(cfg: CfgNode) -> None:
    """Add the ``TRACE`` nodes to ``cfg`` in place; call it before ``cfg.merge_from_file``.

    A Detectron2 config registers the plugin with it as well.

    Args:
        cfg: a Detectron2 or fvcore config.
    """
    from trace_d2.config import add_trace_config as add

    add(cfg)
    if any(kind.__module__.startswith("detectron2.") for kind in type(cfg).__mro__):
        _register()


def _register() -> None:
    from trace_d2.plugin import register

    register()


# Not merely known by name: a process that never touches Detectron2 stays light.
if sys.modules.get("detectron2") is not None:
    _register()
