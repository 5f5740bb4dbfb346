#!/usr/bin/env python3
"""Run the commands of docs/tutorial.md and write what they print below them.

    python tools/studies/write_tutorial.py --work DIR

Commands run in DIR, a copy of nothing but tools/ and configs/ (as links), one after another. What
they printed is kept there (transcript.json), so that a second call runs those alone that are new.
Blocks of output (```text) that follow a command are replaced; progress bars and most lines of logs
are left out, as are names of folders of this machine. Blocks that need a GPU are not run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from doc_commands import Block, blocks

from trace_d2.io.atomic import write_bytes, write_json
from trace_d2.terminal import say

ROOT = Path(__file__).resolve().parents[2]
_LOG = re.compile(r"\[\d\d/\d\d \d\d:\d\d:\d\d [\w.]+\]: ")
_HEAVY = "# needs a GPU and the model's weights"
_WIDTH = 130  # of a line of output; longer ones are cut


def main(arguments: list[str] | None = None) -> int:
    """Write the page; 1 if a command fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder to run in")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "tutorial.md")
    args = parser.parse_args(arguments)
    prepare(args.work)
    known = args.work / "transcript.json"
    printed = json.loads(known.read_text()) if known.is_file() else {}
    page = args.page.read_text(encoding="utf-8")
    shells = [block for block in blocks(page) if block.kind == "sh" and _HEAVY not in block.lines]
    for command in (one for block in shells for one in block.commands):
        if command.startswith(("python tools/", "cat ")) and command not in printed:
            say(f"$ {command}")
            status, printed[command] = run(command, args.work)
            if status:
                say(printed[command], error=True)
                return 1
            write_json(known, printed, indent=1)
    write_bytes(args.page, with_output(page, printed, args.work).encode())
    return 0


def prepare(work: Path) -> None:
    """Let ``work`` have tools/ and configs/, where commands expect them."""
    work.mkdir(parents=True, exist_ok=True)
    for name in ("tools", "configs"):
        if not (work / name).exists():
            (work / name).symlink_to(ROOT / name)


def run(command: str, work: Path) -> tuple[int, str]:
    """Status and output of ``command``, whose ``python`` is the one that runs this."""
    words = shlex.split(command)
    words = [sys.executable, *words[1:]] if words[0] == "python" else words
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        words, cwd=work, env=environment, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, done.stdout


def with_output(page: str, printed: dict[str, str], work: Path) -> str:
    """``page`` with each block of output replaced by what the block before it printed."""
    lines, before = page.split("\n"), None
    found: list[tuple[Block, Block]] = []
    for block in blocks(page):
        if block.kind == "text" and before is not None and before.kind == "sh":
            found.append((before, block))
        before = block
    for source, target in reversed(found):
        known = [printed[one] for one in source.commands if one in printed]
        if known:
            lines[target.start + 1 : target.stop - 1] = [
                line for text in known for line in shown_lines(text, work)
            ]
    return "\n".join(lines)


def shown_lines(text: str, work: Path) -> list[str]:
    """What a reader is to see of ``text``: no bars, of logs the last step and what ends them."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    plain = plain.replace(f"{work.resolve()}/", "").replace(f"{ROOT}/", "")
    last = [line.rpartition("\r")[2] for line in plain.split("\n")]
    logged = [(match, line) for line in last if (match := _LOG.match(line))]
    if not logged:
        kept = [line for line in last if line.strip() and not re.search(r"\d+%\|", line)]
        return [_cut(line) for line in kept]
    kept, step = [], ""
    for match, line in logged:
        rest = line[match.end() :]
        if rest.startswith("eta:"):
            step = re.sub(r"\s{2,}", "  ", rest)
        elif rest.startswith(("Saving", "Overall", "Total", "results")):
            kept.append(rest)
    return [_cut(line) for line in (step, *kept[-3:]) if line]


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else line[:_WIDTH] + " ..."


if __name__ == "__main__":
    sys.exit(main())
