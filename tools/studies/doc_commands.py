"""What a Markdown page tells its readers to run: commands, their output, and Python."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_PROMPTS = ("python ", "make ", "pip ", "cat ", ". ")


@dataclass(frozen=True)
class Block:
    """A block of code on a page.

    Attributes:
        kind: "sh" (indented blocks, too), "text" (what was printed), "python", "yaml", ...
        lines: without fences and indentation.
        start, stop: its lines on the page, fences included, from 0.
    """

    kind: str
    lines: tuple[str, ...]
    start: int
    stop: int

    @property
    def commands(self) -> list[str]:
        """Its commands, one line each, without comments; of ``a && b`` both."""
        joined = re.sub(r"\\\n\s*", "", "\n".join(self.lines))
        bare = (re.sub(r"\s+#.*", "", line).strip() for line in joined.split("\n"))
        return [
            part.strip()
            for line in bare
            for part in line.split(" && ")
            if part.strip().startswith(_PROMPTS)
        ]


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a Markdown ``page``, in its order."""
    lines = page.split("\n")
    at = 0
    while at < len(lines):
        start, line = at, lines[at]
        if line.startswith("```"):
            at = next(n for n in range(start + 1, len(lines)) if lines[n].startswith("```")) + 1
            yield Block(line[3:].strip() or "sh", tuple(lines[start + 1 : at - 1]), start, at)
        elif line.startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            while at < len(lines) and (lines[at].startswith("    ") or not lines[at].strip()):
                at += 1
            kept = [text[4:] for text in lines[start:at]]
            while not kept[-1]:
                kept.pop()
            yield Block("sh", tuple(kept), start, start + len(kept))
        else:
            at += 1
