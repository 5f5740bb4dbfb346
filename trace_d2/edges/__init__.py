"""Where instances end: emergence point, boundary divergence, their detector and its student.

Names (``__init__.pyi`` lists them) are imported at their first use: workers that only read edge
files do without PyTorch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
