"""How far the edges of a folder of results were trusted, in words for terminal and report."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trace_d2.jobs.journal import Record
from trace_d2.jobs.store import JobStore
from trace_d2.propagation.calibration import EdgeCalibration

_USELESS = 0.1  # of trust


def trust_facts(store: JobStore, done: Sequence[Record]) -> list[tuple[str, str]]:
    """How far the edges of a folder of results were trusted, as names and values."""
    facts = []
    content = _written(store.calibration_path)
    if content is not None and content["images"]:
        facts.append(("trust in the edges, of 1", f"{content['trust']:.2f}"))
        if content.get("stuff_masks"):
            false = content["false_pieces"] / content["stuff_masks"]
            facts.append(("pieces that edges would cut off a stuff mask", f"{false:.2f}"))
    counted = [record for record in done if record.uncut]
    if counted:
        uncut = sum(record.uncut for record in counted) / len(counted)
        facts.append(("things an image if edges cut nothing", f"{uncut:.1f}"))
    return facts


def trust_warning(store: JobStore) -> str:
    """A sentence where the edges of a folder of results say little; else empty."""
    content = _written(store.calibration_path)
    if content is None or (content["trust"] >= _USELESS and content["images"]):
        return ""
    if not content["images"]:
        return (
            "the sample has too few outlines, or nothing inside them, to measure edges on: an edge "
            "is taken to be one above 0.5. Name a calibration.json by MODEL.TRACE.EDGES.CALIBRATION"
        )
    if len(content["strengths"]) == 1:
        return (
            "the edges are empty, or fainter than 1/60 everywhere, and cut nothing of their own: "
            "0/1 masks and 8-bit values in 16-bit files must be scaled to the whole range"
        )
    return (
        f"these edges say little here (trust {content['trust']:.2f} of 1): most of those inside "
        "the masks are no borders between objects, so masks are cut by their shape almost alone. "
        "Look at the pictures, and try another detector"
    )


def show_trust(store: JobStore, records: Sequence[Record]) -> None:
    """Print both."""
    facts = trust_facts(store, records)
    counted = [record.things for record in records if record.uncut]
    if counted:
        facts.insert(-1, ("things an image", f"{sum(counted) / len(counted):.1f}"))
    if facts:
        print("edges: " + "; ".join(f"{value} {name}" for name, value in facts))
    if warning := trust_warning(store):
        print(f"warning: {warning}", file=sys.stderr)


def _written(path: Path) -> dict[str, Any] | None:
    """What a job measured; None where there is nothing, or nothing whole."""
    try:
        EdgeCalibration.load(path)
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OSError):
        return None
