"""Weight-sharing networks over a space."""

from .resnest import ResNeStSupernet

__all__ = ['ResNeStSupernet']
