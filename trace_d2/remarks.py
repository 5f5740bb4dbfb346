"""Remarks on images, logged so that those on thousands of images do not drown a log."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable

_SPECIFIC = re.compile(r"\S*[\d.]\S*")  # words with numbers and file names


class RemarkLog:
    """Logs the first remark of each kind, the tenth, the hundredth, and so on.

    Each process counts for itself.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._counts: Counter[str] = Counter()

    def __call__(self, image: object, remarks: Iterable[str]) -> None:
        """Count the ``remarks`` on ``image``, whatever names it; they go out as warnings."""
        for remark in remarks:
            kind = _SPECIFIC.sub("", remark)
            self._counts[kind] += 1
            count = self._counts[kind]
            if count == 10 ** (len(str(count)) - 1):
                so_far = f" ({count} images so far)" if count > 1 else ""
                self._logger.warning("%s: %s%s", image, remark, so_far)

    def __getstate__(self) -> dict[str, object]:
        return {"logger": self._logger.name}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(logging.getLogger(state["logger"]))  # type: ignore[misc]
