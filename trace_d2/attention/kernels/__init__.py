"""Triton's kernels for attention maps; ``choice`` alone may be imported where Triton is not."""
