"""Labels as other programs take them: YOLO-seg, Cityscapes' instance PNGs, CVAT's XML.

``sources`` reads what is exported; the other modules make of the shapes of one image what a format
says of it, and count what the format cannot hold.
"""
