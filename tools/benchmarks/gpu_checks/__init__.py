"""Parts of tools/benchmarks/gpu_check.py."""
