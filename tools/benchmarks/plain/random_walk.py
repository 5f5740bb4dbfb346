"""The random walk of BGP the plain way: a dense (hw, hw) matrix, squared eight times."""

from __future__ import annotations

import torch


def dense_affinity(edges: torch.Tensor, *, radius: int = 5) -> torch.Tensor:
    """(h, w) edge strengths in 0..1 to the (hw, hw) affinities: 1 - max edge on the path, own 1."""
    height, width = edges.shape
    affinity = torch.eye(height * width, dtype=edges.dtype)
    cells = torch.arange(height * width).view(height, width)
    for dy in range(radius):
        for dx in range(1 - radius, radius):
            if (dy == 0 and dx <= 0) or dy * dy + dx * dx >= radius * radius:
                continue
            # Every cell p whose partner p + (dy, dx) is on the grid too.
            rows, columns = height - dy, width - abs(dx)
            if rows <= 0 or columns <= 0:
                continue
            left = max(0, -dx)
            strongest = torch.zeros(rows, columns, dtype=edges.dtype)
            for y in range(dy + 1):
                for x in range(min(0, dx), max(0, dx) + 1):
                    if (dy * x - dx * y) ** 2 / (dy * dy + dx * dx) < 1:
                        on_path = edges[y : y + rows, left + x : left + x + columns]
                        strongest = torch.maximum(strongest, on_path)
            start = cells[:rows, left : left + columns].reshape(-1)
            end = cells[dy:, left + dx : left + dx + columns].reshape(-1)
            affinity[start, end] = affinity[end, start] = 1 - strongest.reshape(-1)
    return affinity


def dense_random_walk(
    masks: torch.Tensor,
    edges: torch.Tensor,
    *,
    radius: int = 5,
    beta: float = 10.0,
    steps: int = 256,
    irnet_padding: bool = False,
) -> torch.Tensor:
    """M (1 - E) times (A^(beta) D^-1)^steps from the right, D the column sums, as IRNet writes it.

    Time grows with (hw)^3 and memory with (hw)^2: 64 x 64 cells are 1.1e12 operations.

    Args:
        masks: (K, h, w) float, of the dtype of ``edges``.
        edges: (h, w) float in 0..1.
        radius: cells closer than this are tied.
        beta: exponent of the affinities.
        steps: t; powers of two take log2(t) squarings.
        irnet_padding: pad with edges of strength 1 on the left, right and bottom, take the
            affinities, and cut the padding out of the matrix before it is normalised.

    Returns:
        (K, h, w), of the same dtype.
    """
    height, width = edges.shape
    if irnet_padding:
        padded = torch.nn.functional.pad(edges, (radius, radius, 0, radius), value=1.0)
        inside = torch.arange(padded.numel()).view(padded.shape)
        inside = inside[:height, radius : radius + width].reshape(-1)
        affinity = dense_affinity(padded, radius=radius)[inside][:, inside]
    else:
        affinity = dense_affinity(edges, radius=radius)
    weights = affinity**beta
    transition = torch.linalg.matrix_power(weights / weights.sum(dim=0, keepdim=True), steps)
    return ((masks * (1 - edges)).reshape(len(masks), -1) @ transition).reshape(masks.shape)
