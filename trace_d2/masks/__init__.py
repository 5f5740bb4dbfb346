"""Masks discovered from bare images: features of tokens, methods that cut them, and sharpening.

Names (``__init__.pyi`` lists them) are imported at their first use: the settings do without
PyTorch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
