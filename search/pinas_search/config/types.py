"""Numbers with bounds, for the fields of the configuration; jsonargparse checks them."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ['Fraction', 'NonNegativeFloat', 'NonNegativeInt', 'PositiveFloat', 'PositiveInt']

if TYPE_CHECKING:  # jsonargparse makes its types at run time, where no type checker sees them
    Fraction = float
    NonNegativeFloat = float
    NonNegativeInt = int
    PositiveFloat = float
    PositiveInt = int
else:
    from jsonargparse.typing import ClosedUnitInterval as Fraction
    from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
