"""What a Markdown page tells its readers to run: commands, their output, and Python."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from string import Template

_PROMPTS = ("python ", "make ", "pip ", "cat ", ". ")
_SETTING = re.compile(r"`([A-Z]+=[^`\s]+(?: [A-Z]+=[^`\s]+)*)`")  # `SET=coco IMAGES=datasets/coco`


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
    def statements(self) -> list[str]:
        """What it holds, one line each, without comments; of ``a && b`` both."""
        joined = re.sub(r"\\\n\s*", "", "\n".join(self.lines))
        bare = (re.sub(r"\s+#.*", "", line) for line in joined.split("\n"))
        return [part.strip() for line in bare for part in line.split(" && ") if part.strip()]

    @property
    def commands(self) -> list[str]:
        """Its statements that are commands."""
        return [one for one in self.statements if one.startswith(_PROMPTS)]


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


@dataclass(frozen=True)
class Section:
    """What follows a heading of the second order, up to the next.

    Attributes:
        title: the heading.
        blocks: its blocks of commands.
        settings: what its tables say to set before, ``{"METHOD": "maskcut"}``; each row of each
            table stands in one of them.
    """

    title: str
    blocks: tuple[Block, ...]
    settings: tuple[dict[str, str], ...]

    @property
    def commands(self) -> list[str]:
        """Its commands, once for each of the settings that they ask for.

        Raises:
            KeyError: a command names a variable that no table sets.
        """
        found: list[str] = []
        for block in self.blocks:
            asked = (Template(c).substitute(row) for row in self.settings for c in block.commands)
            found += dict.fromkeys(asked)
        return found


def sections(page: str) -> Iterator[Section]:
    """The sections of a Markdown ``page``, in its order."""
    for part in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        title, _, text = part.partition("\n")
        shell = tuple(block for block in blocks(text) if block.kind == "sh")
        yield Section(title.strip(), shell, tuple(_settings(text)))


def _settings(text: str) -> Iterator[dict[str, str]]:
    """Rows of the tables of ``text`` that set variables; of tables with other variables side by
    side, the shorter ones begin anew at their end."""
    tables: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for line in text.split("\n"):
        if line.startswith("|"):
            for assignments in _SETTING.findall(line):
                row = dict(one.split("=", 1) for one in assignments.split(" "))
                tables[tuple(row)].append(row)
    for rank in range(max(map(len, tables.values()), default=1)):
        yield {k: v for rows in tables.values() for k, v in rows[rank % len(rows)].items()}
