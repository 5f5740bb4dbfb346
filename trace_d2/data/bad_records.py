"""Records whose files cannot be used: named once, left out, and the end if there are no others."""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

logger = logging.getLogger(__name__)

Record = Mapping[str, Any]
"""One image of a data set, as ``DatasetCatalog`` has it."""


class BadRecordError(ValueError):
    """A record whose files cannot be used; the message names file and remedy."""


class NoUsableRecordError(RuntimeError):
    """Record after record cannot be used; the message has the first reason."""


@contextlib.contextmanager
def blame(record: Record, remedy: str = "") -> Iterator[None]:
    """Turn errors about the files of ``record`` into a BadRecordError that names the image.

    It ends with the ``remedy``, where the errors do not say what to do.
    """
    try:
        yield
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow's own errors about images have no errno; those of a failing disk have one.
        absent = isinstance(error, (FileNotFoundError, PermissionError))
        if isinstance(error, OSError) and error.errno is not None and not absent:
            raise
        ending = f": {remedy}" if remedy else ""
        raise BadRecordError(f"image {record.get('file_name')}: {error}{ending}") from error


class TolerantMapper(ABC):
    """Base of mappers that leave out records that they find bad: these map to None.

    Detectron2's loader then draws another. Each is logged once for its file, and each worker of a
    loader counts for itself.
    """

    most_at_first = 10
    """So many bad records before the first good one end the training: the data set is at fault."""

    most_in_a_row = 1000
    """So many bad records with no good one between them end the training."""

    def __init__(self, raises: bool = False) -> None:
        """``raises``: bad records are errors, as in evaluation."""
        self._raises = raises
        self._any_good = False
        self._in_a_row = 0
        self._first = ""
        self._reported: set[str] = set()

    def __call__(self, record: Record) -> dict[str, Any] | None:
        """What ``record``, which stays as it is, maps to; None, in training, if it cannot be used.

        Raises:
            BadRecordError: such a record, if ``strict`` or in evaluation.
            NoUsableRecordError: in training, too many such records and no others.
            ValueError: the record is of another kind of data set, or does not fit the config.
        """
        try:
            mapped = self._map(record)
        except BadRecordError as error:
            if self._raises:
                raise
            self._leave_out(str(record.get("file_name")), error)
            return None
        self._any_good, self._in_a_row = True, 0
        return mapped

    @abstractmethod
    def _map(self, record: Record) -> dict[str, Any]:
        """What ``record`` maps to; a BadRecordError makes it bad."""

    def _leave_out(self, file_name: str, error: BadRecordError) -> None:
        if file_name not in self._reported:
            self._reported.add(file_name)
            logger.warning("left out of training: %s", error)
        if not self._in_a_row:
            self._first = str(error)
        self._in_a_row += 1
        if self._in_a_row >= (self.most_in_a_row if self._any_good else self.most_at_first):
            raise NoUsableRecordError(
                f"{self._in_a_row} records in a row could not be used for training: mend the data "
                f"set, or what the config says of it. The first: {self._first}"
            ) from error
