"""File formats: categories, COCO panoptic and instances, and writing that never leaves half a file.

What reads raises FileNotFoundError for a file that is not there and ValueError, with its name and
the remedy, for one that is damaged or not what it should be. What writes raises OSError, and the
file is then as it was. Uses nothing else of the package.
"""
