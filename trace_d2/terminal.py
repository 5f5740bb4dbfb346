"""What tools print: names and messages may come out of files, so nothing in them steers the
terminal, or turns the direction of writing."""

from __future__ import annotations

import logging
import sys

from trace_d2.io.json_files import shown


def plain_lines(text: object) -> str:
    """``text`` with its line ends, and every other character that is not seen spelled out."""
    return "\n".join(map(shown, str(text).split("\n")))


class _PlainFormatter(logging.Formatter):
    """The message alone, in plain lines."""

    def format(self, record: logging.LogRecord) -> str:
        return plain_lines(super().format(record))


if logging.lastResort is not None:  # prints warnings where nobody has set up logging: our tools
    logging.lastResort.setFormatter(_PlainFormatter())


def say(text: object, error: bool = False) -> None:
    """Print ``text``; an ``error`` goes to stderr."""
    print(plain_lines(text), file=sys.stderr if error else sys.stdout)
