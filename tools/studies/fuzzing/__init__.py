"""Spoiled files for every reader: what is spoiled, what reads it, and what counts as a fault."""
