"""Settings of the reader."""

from __future__ import annotations

from dataclasses import dataclass

from trace_d2.settings import NodeSettings, one_of, within

KERNELS = ("auto", "triton", "plain")
"""Values of ``MODEL.TRACE.ATTENTION.KERNELS``."""

METRICS = ("kl", "jsd", "l1", "l2", "entropy", "wasserstein")
"""Names of the divergences between maps."""


@dataclass(frozen=True)
class AttentionSettings(NodeSettings, node="MODEL.TRACE.ATTENTION"):
    """What ``SelfAttentionReader`` averages, in how much memory, and how."""

    blocks: tuple[int, ...] = within(0, default=())
    scratch_mb: float = 16
    kernels: str = one_of(*KERNELS, default="auto")
