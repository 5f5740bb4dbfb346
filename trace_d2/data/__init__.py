"""Data sets of Detectron2 and what mappers make of their records.

What is missing raises FileNotFoundError; a file that is damaged, or a config key that is wrong or
does not fit another, raises ValueError. Messages name the file or key, and the remedy.
"""
