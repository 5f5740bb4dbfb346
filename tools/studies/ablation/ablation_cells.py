"""The numbers of the study on disk: a JSON file for each group of rows and seed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from trace_d2.io.atomic import write_json

_NAME = re.compile(r"(?P<group>.+)_seed(?P<seed>\d+)\.json")


class Cells:
    """A folder of cells ``<group>_seed<k>.json``: fingerprint, rows and what else is known.

    Args:
        folder: is made when the first cell is written.
    """

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
        found = []
        for path in self.folder.glob("*.json"):
            name = _NAME.fullmatch(path.name)
            if name:
                found.append((name["group"], int(name["seed"]), path))
        if not found:
            raise FileNotFoundError(
                f"no numbers in {self.folder}: run ablate.py with this --output first"
            )
        return [json.loads(path.read_text()) for _, _, path in sorted(found)]
