"""All that is wrong is said at once."""

from __future__ import annotations

import pytest

from trace_d2.complaints import Complaints, ConfigError, check_all


def fail(error: Exception) -> None:
    raise error


def test_one_complaint_is_raised_as_it_is():
    wrong = Complaints()
    assert wrong.of(int, "3") == 3
    wrong.end()
    assert wrong.of(fail, FileNotFoundError("no file")) is None
    assert wrong
    with pytest.raises(FileNotFoundError, match=r"^no file$"):
        wrong.end()


def test_several_are_listed_once_each_those_of_inner_checks_too():
    def inner() -> None:
        check_all(lambda: fail(ValueError("b")), lambda: fail(OSError("c")))

    wrong = Complaints()
    for check in (lambda: fail(ImportError("a")), inner, inner):
        wrong.of(check)
    with pytest.raises(ConfigError) as caught:
        wrong.end()
    assert str(caught.value) == "several things are wrong:\n- a\n- b\n- c"


def test_what_nobody_foresaw_passes():
    with pytest.raises(ZeroDivisionError):
        check_all(lambda: fail(ZeroDivisionError()))
