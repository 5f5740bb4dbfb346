#!/usr/bin/env python3
"""Run the commands of docs/reproduce.md on miniature data, from data sets to figures.

    python tools/studies/reproduce.py --list
    python tools/studies/reproduce.py 1 12        # tables and figures by the names of --list
    python tools/studies/reproduce.py all

What stands on the page is run as it stands but for the replacements of miniature/rules.py: tiny
random models for published ones, one step for a training, one process for a GPU. Data sets are a
few procedural scenes in the official layouts. So figures mean nothing; that every command runs, and
finds what those before it wrote, is what this shows. What all tables share is run first.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from doc_commands import Section, sections
from miniature.commands import data_sets, in_miniature, run
from miniature.rules import RULES

from trace_d2.terminal import say

ROOT = Path(__file__).resolve().parents[2]
INDEX = ROOT / "docs" / "reproduce.md"
_HEADING = re.compile(r"Tables? (?P<tables>\d+(?:(?:,| and) \d+)*): .*|Figure: (?P<figure>\w+).*")


def pages() -> list[Path]:
    """The page that is read first, and those of the tables."""
    return [INDEX, *sorted(INDEX.with_suffix("").glob("*.md"))]


def shared_sections() -> list[Section]:
    """What comes before all tables, in its order."""
    return [one for one in sections(INDEX.read_text(encoding="utf-8")) if one.blocks]


def table_sections() -> dict[str, Section]:
    """Tables ("1") and figures ("stride") by name; a section of two tables has two names.

    Raises:
        ValueError: commands below another heading.
    """
    found: dict[str, Section] = {}
    for page in pages()[1:]:
        for section in sections(page.read_text(encoding="utf-8")):
            heading = _HEADING.fullmatch(section.title)
            if heading:
                names = re.findall(r"\d+", heading["tables"] or "") or [heading["figure"].lower()]
                found |= dict.fromkeys(names, section)
            elif section.blocks:
                raise ValueError(f"{page}: commands below {section.title!r}, which is no table")
    return dict(sorted(found.items(), key=lambda item: (not item[0].isdigit(), _rank(item[0]))))


def _rank(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (0, name)


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; 0 if every command did its work, 1 if not, 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="names of --list, or all")
    parser.add_argument("--list", action="store_true", help="show what there is, no more")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR",
        help="new folder to run in, which stays (default: one that does not)",
    )  # fmt: skip
    args = parser.parse_args(arguments)
    known = table_sections()
    if args.list:
        for name, section in known.items():
            say(f"{name:12} {section.title} ({len(section.commands)} commands)")
        return 0
    unknown = [repr(name) for name in args.tables if name not in {*known, "all"}]
    if unknown or not args.tables:
        instead = f"; not {', '.join(unknown)}" if unknown else ""
        parser.error(f"name tables of {', '.join(known)}, or all{instead}")
    if args.folder and args.folder.exists() and not _is_empty(args.folder):
        parser.error(f"--folder {args.folder} holds something: name a new one, or remove it")
    names = list(known) if "all" in args.tables else args.tables
    chosen = {s.title: s for s in (*shared_sections(), *(known[name] for name in names))}
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(inside(prepare(folder)))
        return run_sections(list(chosen.values()))


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def prepare(folder: Path) -> Path:
    """Let ``folder`` have tools, configs and data sets where commands expect them; returns it."""
    from miniature.data import write_data_sets
    from miniature.domains import write_domains
    from miniature.semantic_sets import write_semantic_sets

    (folder / "datasets").mkdir(parents=True)
    write_data_sets(folder / "datasets")
    write_domains(folder / "datasets")
    write_semantic_sets(folder / "datasets")
    for name in ("tools", "configs", *(f"datasets/{p.name}" for p in ROOT.glob("datasets/*.py"))):
        (folder / name).symlink_to(ROOT / name)
    return folder


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Be in ``folder`` for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_sections(chosen: Sequence[Section]) -> int:
    """Run the commands of each in the folder we are in; the exit status."""
    done, failed, start = 0, 0, time.perf_counter()
    for section in chosen:
        say(f"\n# {section.title}")
        for command in section.commands:
            done, failed = (done + 1, failed) if _run(command) else (done, failed + 1)
    seconds = time.perf_counter() - start
    say(f"\n{done + failed} commands of {len(chosen)} sections in {seconds:.0f} s: {failed} failed")
    return int(failed > 0)


def _run(published: str) -> bool:
    """Run one command; tells it, its miniature, how long it took and, if it failed, why."""
    command = in_miniature(published, RULES, _model)
    say(f"$ {published}\n  as: {command}")
    printed, start = io.StringIO(), time.perf_counter()
    try:
        with data_sets(Path("datasets").resolve()), _captured(printed):
            status = run(command)
    except SystemExit as stopped:  # of argparse
        status = int(stopped.code or 0)
    except Exception:  # told, and the others go on
        status = 1
        printed.write(traceback.format_exc())
    say(f"  {time.perf_counter() - start:.1f} s, " + (f"status {status}" if status else "done"))
    if status:
        say(printed.getvalue()[-4000:], error=True)
    return not status


@contextlib.contextmanager
def _captured(printed: io.StringIO) -> Iterator[None]:
    """What is printed goes to ``printed``; loggers are as before afterwards."""
    loggers = [logging.getLogger(name) for name in ("", "fvcore", "detectron2", "trace_d2")]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


def _model(name: str) -> str:
    from miniature.models import save_tiny_model

    return str(save_tiny_model(name, Path("models", name)).resolve())


if __name__ == "__main__":
    sys.exit(main())
