"""What a denoiser's self-attention says: the reader, and divergences between maps.

Names (``__init__.pyi`` lists them) are imported at their first use: the settings of the reader do
without PyTorch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
