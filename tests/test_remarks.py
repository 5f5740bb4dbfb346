"""Remarks on many images in one log."""

from __future__ import annotations

import logging
import pickle

import pytest

from trace_d2.remarks import RemarkLog


def test_each_kind_is_logged_at_its_first_tenth_hundredth(caplog: pytest.LogCaptureFixture) -> None:
    log = RemarkLog(logging.getLogger("trace_d2.test"))
    for number in range(150):
        log(f"{number}.png", [f"no sample above {number}", "the edges are faint"])
    assert [record.getMessage() for record in caplog.records] == [
        "0.png: no sample above 0",
        "0.png: the edges are faint",
        "9.png: no sample above 9 (10 images so far)",
        "9.png: the edges are faint (10 images so far)",
        "99.png: no sample above 99 (100 images so far)",
        "99.png: the edges are faint (100 images so far)",
    ]


def test_it_goes_to_workers(caplog: pytest.LogCaptureFixture) -> None:
    log = pickle.loads(pickle.dumps(RemarkLog(logging.getLogger("trace_d2.test"))))
    log("a.png", ["dark"])
    assert caplog.messages == ["a.png: dark"]
