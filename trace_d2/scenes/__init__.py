"""Procedural scenes with perfect truth, oracle edges, and the errors of real masks and edges."""
