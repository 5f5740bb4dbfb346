"""The numbers of the study: a JSON file for each group of rows and seed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from trace_d2.io.atomic import write_json

Values = dict[int, float]
"""Seed -> value."""


class Cells:
    """A folder of cells ``<group>_seed<k>.json``: fingerprint, rows and what else is known."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, group: str, seed: int) -> Path:
        """Where a cell lies."""
        return self.folder / f"{group}_seed{seed}.json"

    def read(self, group: str, seed: int, fingerprint: dict[str, Any]) -> dict[str, Any] | None:
        """The cell, if it is there and of this ``fingerprint``."""
        path = self.path(group, seed)
        if not path.is_file():
            return None
        cell: dict[str, Any] = json.loads(path.read_text())
        # As JSON has it: tuples are lists there, and keys are text.
        return cell if cell["fingerprint"] == json.loads(json.dumps(fingerprint)) else None

    def write(
        self,
        group: str,
        seed: int,
        fingerprint: dict[str, Any],
        rows: dict[str, dict[str, Any]],
        extra: dict[str, Any],
    ) -> None:
        """Keep a cell: ``rows`` by key, and ``extra`` that is of no single row."""
        self.folder.mkdir(parents=True, exist_ok=True)
        cell = {"group": group, "seed": seed, "fingerprint": fingerprint, "rows": rows}
        write_json(self.path(group, seed), cell | {"extra": extra}, indent=1)

    def all(self) -> list[dict[str, Any]]:
        """Every cell, in order of group and seed.

        Raises:
            FileNotFoundError: there is none.
        """
        found = [json.loads(path.read_text()) for path in self.folder.glob("*_seed*.json")]
        if not found:
            raise FileNotFoundError(
                f"no numbers in {self.folder}: run ablate.py with this --output first"
            )
        return sorted(found, key=lambda cell: (cell["group"], cell["seed"]))


class Numbers:
    """All numbers of a study, by row, metric and seed.

    Cells of other settings than those of the newest are left out and named on stderr.
    """

    def __init__(self, cells: Cells) -> None:
        found = cells.all()
        newest = max(found, key=lambda c: cells.path(c["group"], c["seed"]).stat().st_mtime_ns)
        self.settings = _common(newest)
        self.used = [cell for cell in found if _common(cell) == self.settings]
        stale = [f"{c['group']}, seed {c['seed']}" for c in found if c not in self.used]
        if stale:
            print(f"left out, of other settings: {'; '.join(stale)}", file=sys.stderr)
        self.values: dict[str, dict[str, Values]] = {}
        for cell in self.used:
            for row, metrics in cell["rows"].items():
                for metric, value in metrics.items():
                    of_row = self.values.setdefault(row, {})
                    of_row.setdefault(metric, {})[cell["seed"]] = value

    def of(self, row: str, metric: str) -> Values:
        """Values of a row by seed; empty where it was not run."""
        return self.values.get(row, {}).get(metric, {})

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the settings, and row -> metric -> values by seed, rounded."""
        rows = {
            row: {
                name: [round(v, 5) for v in of_seed.values()] for name, of_seed in metrics.items()
            }
            for row, metrics in self.values.items()
        }
        return {"settings": {k: v for k, v in self.settings.items() if k != "config"}, "rows": rows}

    def extra(self, group: str, key: str) -> list[Any]:
        """``extra[key]`` of each seed's cell of a group."""
        return [cell["extra"][key] for cell in self.used if cell["group"] == group]

    def trainings(self, key: str) -> list[str]:
        """What the trainings were made with, each value once."""
        made = [c["fingerprint"].get("training") for c in self.used]
        return sorted({str(training[key]) for training in made if training})


def _common(cell: dict[str, Any]) -> dict[str, Any]:
    names = ("version", "scenes", "side", "thresholds", "config")
    return {name: cell["fingerprint"][name] for name in names}
