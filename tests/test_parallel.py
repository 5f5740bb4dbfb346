"""Results come in order, whoever makes them."""

from __future__ import annotations

import os
import threading

import pytest

from trace_d2.parallel import PixelGate, ordered_map


def square(number: int) -> tuple[int, int]:
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number**2, os.getpid()


@pytest.mark.parametrize(("workers", "least", "elsewhere"), [(1, 1, 0), (2, 1, 1), (2, 6, 0)])
def test_in_order(workers: int, least: int, elsewhere: bool) -> None:
    results = list(ordered_map(square, range(9), workers, items_a_worker=least))
    assert [value for value, _ in results] == [number**2 for number in range(9)]
    assert ({process for _, process in results} != {os.getpid()}) == elsewhere


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_arrive(workers: int) -> None:
    results = ordered_map(square, [3, -1, 2], workers)
    assert next(results)[0] == 9
    with pytest.raises(ValueError, match="-1 is negative"):
        next(results)


def test_nothing_to_do() -> None:
    assert list(ordered_map(square, [], 4)) == []


def test_a_gate_lets_through_what_fits_and_large_images_alone() -> None:
    gate = PixelGate(10)
    with gate.image(6):
        assert gate.fits(4)
        assert not gate.fits(5)
    assert gate.fits(99)
    with gate.image(99):
        assert not gate.fits(1)
        waiting = threading.Thread(target=lambda: gate.image(1).__enter__(), daemon=True)
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
    waiting.join(30)
    assert not waiting.is_alive()
