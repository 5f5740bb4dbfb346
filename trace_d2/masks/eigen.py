"""The second eigenvector of a normalised cut, by Lanczos, of several images at once.

Minimising the normalised cut of a graph W, relaxed, gives (D - W) y = lambda D y with D the sums of
the rows (Shi and Malik, 2000). With z = D^1/2 y this is the symmetric D^-1/2 W D^-1/2, of which the
largest eigenvalue is 1 and its vector D^1/2 1 is known. So that is left out from the start, and
Lanczos finds the next with some 40 products, where a full solver takes the work of thousands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numba
import torch
from torch import Tensor

TOLERANCE = 1e-10

_TINY = torch.finfo(torch.float64).tiny
# Below this length a remainder is rounding: the vectors so far span all that there is.
_ROUNDING = 1e-12
# Steps between two looks at how near the vector is, as a share of the steps so far.
_LOOKS = 0.1


class Eigenvector(NamedTuple):
    """The eigenvector of the second smallest eigenvalue of (D - W) y = lambda D y.

    Attributes:
        value: lambda in 0..2.
        vector: (N,) float64, y' D y = 1, of arbitrary sign.
        steps: products with W that it took.
    """

    value: float
    vector: Tensor
    steps: int


@dataclass(frozen=True)
class Graph:
    """Graphs of several images, W = scale weights + floor; tokens not active have the floor alone.

    Attributes:
        weights: (B, N, N) float64, symmetric, not negative; on the CPU bool or float32 as well,
            which are read in less time.
        floor: weight of every pair on top, that of a token with itself included.
        active: (B, N) float64 of 0 and 1; None: all tokens are.
        scale: of the weights.
    """

    weights: Tensor
    floor: float = 0.0
    active: Tensor | None = None
    scale: float = 1.0

    def times(self, vectors: Tensor) -> Tensor:
        """W times one (B, N) vector an image."""
        own = vectors if self.active is None else vectors * self.active
        product = self._product(own) * self.scale
        if self.active is not None:
            product *= self.active
        return product + self.floor * vectors.sum(-1, keepdim=True)

    def _product(self, vectors: Tensor) -> Tensor:
        if self.weights.device.type != "cpu":
            return torch.bmm(self.weights, vectors[..., None])[..., 0]
        weights = (
            self.weights.view(torch.uint8) if self.weights.dtype == torch.bool else self.weights
        )
        out = torch.empty_like(vectors)
        _multiply(weights.numpy(), vectors.contiguous().numpy(), out.numpy())
        return out

    def degrees(self) -> Tensor:
        """(B, N) sums of the rows of W."""
        return self.times(
            torch.ones(self.weights.shape[:2], dtype=torch.float64, device=self.weights.device)
        )


def second_eigenvectors(graph: Graph, tolerance: float = TOLERANCE) -> list[Eigenvector | None]:
    """The second eigenvector of each image's graph.

    An image's result does not depend on its company. Where the second eigenvalue is (nearly) as
    large as the third, the residual has to be so much smaller: that bounds the angle between the
    vector and the exact one (Davis and Kahan) by ``tolerance``, down to what float64 can tell.

    Args:
        graph: at least one image.
        tolerance: of the residual in relation to the gap between eigenvalues.

    Returns:
        One an image; None where no direction is better than another: a graph of one token, or one
        whose eigenvalues but the first are all alike, as of an image of one colour.

    Raises:
        ValueError: weights are not finite or negative, or a token has no weight at all.
    """
    degrees = graph.degrees()
    _check(graph, degrees)
    count, tokens = degrees.shape
    if tokens < 2:
        return [None] * count
    roots = degrees.sqrt()
    search = _Search(graph, roots)
    found: list[Eigenvector | None] = [None] * count
    left = set(range(count))
    look = 1
    for steps in range(1, tokens):
        ends = search.step()
        last = steps == tokens - 1
        if not last and steps < look and min(ends[image] for image in left) > _ROUNDING:
            continue
        look = steps + max(1, round(_LOOKS * steps))
        for image in sorted(left):
            value, inner, near = search.best(image, tolerance)
            if not (near or last):
                continue
            left.remove(image)
            if steps > 1 or tokens == 2 or ends[image] > _ROUNDING:
                vector = search.vector(image, inner) / roots[image]
                found[image] = Eigenvector(1 - value, vector, steps)
        if not left:
            break
    return found


def normalised_cuts(graph: Graph, sides: Tensor) -> Tensor:
    """cut(A, B) / vol(A) + cut(A, B) / vol(B) of (B, N) bool ``sides`` A and what is left, B.

    Returns:
        (B,) float64 in 0..2; 1 where a side is empty.
    """
    inside = sides.double()
    degrees = graph.degrees()
    volume = (degrees * inside).sum(-1)
    rest = (degrees * (1 - inside)).sum(-1)
    cut = volume - (graph.times(inside) * inside).sum(-1)
    return torch.where((volume > 0) & (rest > 0), cut / volume + cut / rest, torch.ones_like(cut))


class _Search:
    """Lanczos on D^-1/2 W D^-1/2 without its known first eigenvector, an image a row.

    Every new vector is made orthogonal to all before it, twice: without that, copies of vectors
    that were found come back.
    """

    def __init__(self, graph: Graph, roots: Tensor) -> None:
        self._graph, self._roots = graph, roots
        count, tokens = roots.shape
        first = roots / torch.linalg.vector_norm(roots, dim=-1, keepdim=True)
        self._basis = roots.new_empty(count, 32, tokens)
        self._basis[:, 0] = first
        # The same start whatever the device and the company.
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(tokens, generator=generator, dtype=torch.float64).to(roots)
        self._size = 1
        self._append(self._orthogonal(start.expand(count, -1)))
        self._diagonal: list[list[float]] = []
        self._beside: list[list[float]] = []

    def step(self) -> list[float]:
        """One more vector; of each image the length of what was new in it."""
        newest = self._basis[:, self._size - 1]
        product = self._graph.times(newest / self._roots) / self._roots
        diagonal = (newest * product).sum(-1)
        length = self._append(self._orthogonal(product))
        both = torch.stack((diagonal, length)).tolist()  # the one wait for the device
        self._diagonal.append(both[0])
        self._beside.append(both[1])
        return both[1]

    def best(self, image: int, tolerance: float) -> tuple[float, Tensor, bool]:
        """The largest eigenvalue so far, its vector in the basis, and whether that is near enough.

        Its residual is what the next vector adds to the last entry.
        """
        diagonal = torch.tensor([row[image] for row in self._diagonal], dtype=torch.float64)
        beside = torch.tensor([row[image] for row in self._beside], dtype=torch.float64)
        small = torch.diag(diagonal)
        small += torch.diag(beside[:-1], 1) + torch.diag(beside[:-1], -1)
        values, vectors = torch.linalg.eigh(small)
        residual = float(beside[-1] * vectors[-1, -1].abs())
        gap = float(values[-1] - values[-2]) if len(values) > 1 else 1.0
        near = residual <= max(tolerance * gap, 1e-14) or float(beside[-1]) <= _ROUNDING
        return float(values[-1]), vectors[:, -1], near

    def vector(self, image: int, inner: Tensor) -> Tensor:
        """(N,) of length 1 from its entries in the basis."""
        return inner.to(self._basis.device) @ self._basis[image, 1 : len(inner) + 1]

    def _orthogonal(self, vectors: Tensor) -> Tensor:
        basis = self._basis[:, : self._size]
        if basis.device.type == "cpu":
            vectors = vectors.clone()
            _take_away(basis.numpy(), vectors.numpy())
            return vectors
        for _ in range(2):
            shares = torch.bmm(basis, vectors[..., None])
            vectors = vectors - torch.bmm(basis.mT, shares)[..., 0]
        return vectors

    def _append(self, vectors: Tensor) -> Tensor:
        if self._size == self._basis.shape[1]:
            self._basis = torch.cat((self._basis, torch.empty_like(self._basis)), dim=1)
        length = torch.linalg.vector_norm(vectors, dim=-1)
        self._basis[:, self._size] = vectors / length.clamp_min(_TINY)[:, None]
        self._size += 1
        return length


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _multiply(weights, vectors, out):  # type: ignore[no-untyped-def]
    """out (B, N) <- weights (B, N, N) of any type times vectors (B, N), summed in float64.

    Time goes by what is read: a byte a pair of tokens, where a library would want eight.
    """
    for image in range(weights.shape[0]):
        vector = vectors[image]
        for row in range(weights.shape[1]):
            own = weights[image, row]
            total = 0.0
            for column in range(len(vector)):
                total += own[column] * vector[column]
            out[image, row] = total


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _take_away(basis, vectors):  # type: ignore[no-untyped-def]
    """Take from vectors (B, N) what lies along basis (B, K, N), twice, in place.

    Products of this size in a library would wait longer for its threads than they take.
    """
    for image in range(len(vectors)):
        vector = vectors[image]
        for _ in range(2):
            for row in range(basis.shape[1]):
                along = basis[image, row]
                share = 0.0
                for column in range(len(vector)):
                    share += along[column] * vector[column]
                for column in range(len(vector)):
                    vector[column] -= share * along[column]


def _check(graph: Graph, degrees: Tensor) -> None:
    """Raise a ValueError unless the graphs can be cut."""
    if not bool(torch.isfinite(degrees).all()):
        raise ValueError("weights between tokens must be finite, but some are NaN or infinite")
    least = 0.0 if graph.weights.dtype == torch.bool else float(graph.weights.min())
    if graph.floor < 0 or least < 0:
        raise ValueError("weights between tokens must not be negative")
    if float(degrees.min()) <= 0:
        raise ValueError(
            "a token has no weight to any other, nor to itself: leave it out, or give every pair "
            "of tokens a small weight (floor)"
        )
