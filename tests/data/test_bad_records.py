"""Which errors are a record's, and how many of them end the training."""

from __future__ import annotations

import errno
import logging

import pytest
from PIL import Image, UnidentifiedImageError

from trace_d2.data import bad_records
from trace_d2.data.bad_records import BadRecordError, NoUsableRecordError, TolerantMapper, blame

RECORD = {"file_name": "a.jpg"}


@pytest.mark.parametrize(
    "error",
    [
        ValueError("why"),
        OSError("why"),
        UnidentifiedImageError("why"),
        SyntaxError("why"),
        Image.DecompressionBombError("why"),
        FileNotFoundError(errno.ENOENT, "why"),
        PermissionError(errno.EACCES, "why"),
    ],
)
def test_errors_of_a_record(error):
    with pytest.raises(BadRecordError, match=r"image a\.jpg: .*why.*: mend it$"):  # noqa: SIM117
        with blame(RECORD, "mend it"):
            raise error


@pytest.mark.parametrize("error", [OSError(errno.EIO, "why"), KeyError("why"), RuntimeError("why")])
def test_errors_of_machine_and_code_stay_as_they_are(error):
    with pytest.raises(type(error)) as caught, blame(RECORD):
        raise error
    assert caught.value is error


class Mapper(TolerantMapper):
    def _map(self, record):
        if record.get("bad"):
            raise BadRecordError(f"{record['file_name']} is bad")
        return "used"


GOOD = {"file_name": "good.jpg"}
BAD = [{"file_name": f"{number}.jpg", "bad": True} for number in range(9)]


def test_bad_records_between_good_ones(caplog):
    mapper = Mapper()
    mapper.most_at_first, mapper.most_in_a_row = 3, 5
    with caplog.at_level(logging.WARNING, bad_records.__name__):
        for _ in range(4):
            assert [mapper(record) for record in BAD[:2]] == [None, None]
            assert mapper(GOOD) == "used"
    assert [entry.getMessage() for entry in caplog.records] == [
        "left out of training: 0.jpg is bad",
        "left out of training: 1.jpg is bad",
    ]
    assert [mapper(record) for record in BAD[:4]] == [None] * 4
    with pytest.raises(NoUsableRecordError, match=r"5 records in a row .* first: 0\.jpg is bad"):
        mapper(BAD[4])


def test_no_good_record_at_all():
    mapper = Mapper()
    mapper.most_at_first = 3
    assert [mapper(record) for record in BAD[5:7]] == [None, None]
    with pytest.raises(NoUsableRecordError, match=r"3 records .* The first: 5\.jpg is bad"):
        mapper(BAD[7])


def test_other_errors_are_not_counted():
    with pytest.raises(KeyError):
        Mapper()({"bad": True})


def test_strict_raises():
    with pytest.raises(BadRecordError, match=r"0\.jpg is bad"):
        Mapper(raises=True)(BAD[0])
