"""Turns published annotations into the files that the built-in data sets read."""
