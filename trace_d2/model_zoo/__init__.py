"""trace-tiny, the backbone that comes with the package, and how it was made."""

from __future__ import annotations

from pathlib import Path

TRACE_TINY = Path(__file__).parent / "trace_tiny"

__all__ = ["TRACE_TINY"]
