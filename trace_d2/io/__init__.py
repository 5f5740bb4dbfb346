"""File formats: categories, COCO panoptic and instances, and writing that never leaves half a file.

Uses nothing else of the package.
"""
