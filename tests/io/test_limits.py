"""How large a picture may be."""

from __future__ import annotations

import pytest

from trace_d2.io.limits import MAX_PIXELS, check_size


def test_sizes_up_to_the_limit_pass() -> None:
    check_size(1, 1, "a.png")
    check_size(MAX_PIXELS, 1, "a.png")
    with pytest.raises(ValueError, match=r"a\.png is 268435457x1 pixels, .*TRACE_D2_MAX_PIXELS"):
        check_size(MAX_PIXELS + 1, 1, "a.png")


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-3, -3)])
def test_nothing_is_no_picture(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"a\.png says it is {size[0]}x{size[1]} pixels"):
        check_size(*size, "a.png")


def test_the_environment_sets_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACE_D2_MAX_PIXELS", "12")
    check_size(3, 4, "a.png")
    with pytest.raises(ValueError, match="more than 12 are not read"):
        check_size(13, 1, "a.png")
    monkeypatch.setenv("TRACE_D2_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="TRACE_D2_MAX_PIXELS is 'many': set a number"):
        check_size(1, 1, "a.png")
