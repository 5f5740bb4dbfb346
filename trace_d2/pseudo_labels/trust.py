"""How far the edges of a folder of results were trusted, in words for terminal and report."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trace_d2.pseudo_labels.journal import Record
from trace_d2.pseudo_labels.store import JobStore

_USELESS = 0.1  # of trust


def trust_facts(store: JobStore, done: Sequence[Record]) -> list[tuple[str, str]]:
    """How far the edges of a folder of results were trusted, as names and values."""
    facts = []
    content = _written(store.calibration_path)
    if content is not None:
        facts.append(("trust in the edges, of 1", f"{content['trust']:.2f}"))
        if content.get("stuff_masks"):
            false = content["false_pieces"] / content["stuff_masks"]
            facts.append(("false pieces a stuff mask", f"{false:.2f}"))
    counted = [record for record in done if record.uncut]
    if counted:
        uncut = sum(record.uncut for record in counted) / len(counted)
        facts.append(("things an image without edges", f"{uncut:.1f}"))
    return facts


def trust_warning(store: JobStore) -> str:
    """A sentence where the edges of a folder of results were found useless; else empty."""
    content = _written(store.calibration_path)
    if content is None or content["trust"] >= _USELESS:
        return ""
    return (
        f"these edges say little here (trust {content['trust']:.2f} of 1): inside the masks they "
        "are as frequent as on outlines, so masks are cut by their shape almost alone. Look at "
        "the pictures, and try another detector"
    )


def show_trust(store: JobStore, records: Sequence[Record]) -> None:
    """Print both."""
    facts = trust_facts(store, records)
    if facts:
        print("edges: " + "; ".join(f"{value} {name}" for name, value in facts))
    if warning := trust_warning(store):
        print(f"warning: {warning}", file=sys.stderr)


def _written(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
