"""Boundary-guided propagation (BGP): masks cut by edges, random walk, merging."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
