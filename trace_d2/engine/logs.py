"""The loggers of a training: colours on a terminal, plain text in files and pipes."""

from __future__ import annotations

import logging
import re

from detectron2.utils.logger import setup_logger

_CODES = re.compile(r"\x1b\[[0-9;]*m")  # of terminals, for colours


class _PlainText(logging.Formatter):
    """The lines of another formatter, without codes of terminals in them."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        return _CODES.sub("", self.formatter.format(record))


def set_up_logs(folder: str, rank: int) -> None:
    """Log to the terminal and to ``log.txt`` in ``folder``; before Detectron2 sets up its own.

    Detectron2 paints tables and configs, and paints them in files as well.

    Args:
        rank: of this process; others than 0 have files of their own, and no terminal.
    """
    # Called as default_setup does, whose own calls then find the loggers as they are.
    setup_logger(folder, distributed_rank=rank, name="fvcore")
    setup_logger(folder, distributed_rank=rank)
    setup_logger(folder, distributed_rank=rank, name="trace_d2")
    for name in ("fvcore", "detectron2", "trace_d2"):
        for handler in logging.getLogger(name).handlers:
            stream = getattr(handler, "stream", None)
            formatter = handler.formatter
            # A closed one is of an earlier call in this process, whose terminal is gone.
            if stream is None or stream.closed or formatter is None:
                continue
            if not stream.isatty() and not isinstance(formatter, _PlainText):
                handler.setFormatter(_PlainText(formatter))
