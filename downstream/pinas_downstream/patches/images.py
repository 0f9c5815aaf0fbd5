"""The one place of mmcv that opens images by Pillow, for label maps mostly: of named formats and a stated size only."""

from __future__ import annotations

from types import ModuleType
from typing import IO, Any

__all__ = ['name_formats']


class _Named(ModuleType):
    """Stands for ``PIL.Image`` in a module that opens files with it."""

    def __init__(self, pillow: ModuleType) -> None:
        super().__init__(pillow.__name__)
        self.pillow = pillow

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pillow, name)

    def open(self, file: IO[bytes]) -> Any:
        """Open an image of one of our formats: Pillow alone would start Ghostscript on a PostScript file.

        Args:
            file: Binary file, which the caller closes.

        Raises:
            ValueError: If it is of no such format, or has more pixels than are read.
        """
        from pinas_models.common.images import FORMATS, check_size

        try:
            image = self.pillow.open(file, formats=FORMATS)
        except self.pillow.UnidentifiedImageError as error:
            raise ValueError(f'an image or label map is of none of the formats {", ".join(FORMATS)}') from error
        except self.pillow.DecompressionBombError as error:
            raise ValueError(f'an image or label map is too large: {error}') from error
        check_size(image)
        return image


def name_formats(module: ModuleType) -> None:
    """Let a module open named formats only.

    Args:
        module: ``mmcv.image.io``, which has Pillow's module under the name ``Image``.
    """
    if module.Image is not None:
        module.Image = _Named(module.Image)  # type: ignore[attr-defined]
