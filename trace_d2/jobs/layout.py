"""What lies where in the folder of a job's results.

::

    OUTPUT/
      journal.jsonl                one line an image
      report.html                  the report page
      settings.json  images.json   what the results were made with, and of which images
      annotations/<stem>.json      a note of each image, for the files that join all
      previews/<stem>.json         pictures for the report page
      shards/                      a journal for each shard, until they are joined

and what the ``Layout`` of a kind of job adds. Every file but the journal is written whole or not at
all. A result counts as finished when all its files and then its line in the journal are on the
disk. Images in sub-folders keep their sub-folder: ``annotations/n01440764/x.json``. Where a folder
of images has very many, the files of each lie in parts (``trace_d2.io.fans``), as ``images.json``
notes: ``annotations/part-3f/x.json``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

NOTES, PREVIEWS = "annotations/{}.json", "previews/{}.json"
SHARDS = "shards"
"""The folder of the journals that are not joined yet."""

# Of an object store it is one of several parts, with the time and a random number in its name.
_SHARD_JOURNAL = re.compile(r"journal-[0-9]+-of-[0-9]+(\.[0-9]{13}-[0-9a-f]{8})?\.jsonl")


@dataclass(frozen=True)
class Layout:
    """What the folder of one kind of job has besides the above; ``{}`` stands for a stem.

    Attributes:
        kind: of the results, in words, as ``"labels"``.
        results: the files of one image's result.
        optional: files of one image that a run may be asked for besides.
        facts: numbers that the record of a finished image has.
        joined: files of all images.
        told: files of one image by the fact in its record that tells that it has them.
        scratch: a folder that is needed only until all images are done.
        fans: whether the files of very many images may lie in parts (``trace_d2.io.fans``).
        beside: whether the output is a file, and the folder is ``<file>.work``.
        upgrade: from settings of format 1 to those of today.
    """

    kind: str
    results: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    told: Mapping[str, str] = field(default_factory=dict)
    scratch: str = ""
    fans: bool = True
    beside: bool = False
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict

    @property
    def patterns(self) -> tuple[str, ...]:
        """All files of one image."""
        return (*self.results, *self.optional, *self.told.values(), NOTES, PREVIEWS)

    @property
    def folders(self) -> list[str]:
        """All folders."""
        own = [pattern.split("/")[0] for pattern in self.patterns]
        return [*own, SHARDS, *([self.scratch] if self.scratch else [])]


def is_shard_journal(name: str) -> bool:
    """Whether a file of this name is a shard's journal, or a part of one."""
    return _SHARD_JOURNAL.fullmatch(name) is not None
