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
    from jsonargparse.typing import restricted_number_type

    # What single precision and 64 bits hold: more would be infinite, or too large, where it is used.
    _LARGEST_FLOAT, _LARGEST_INT = 3e38, 2**63 - 1
    NonNegativeFloat = restricted_number_type('NumberFrom0', float, [('>=', 0), ('<=', _LARGEST_FLOAT)])
    PositiveFloat = restricted_number_type('NumberAbove0', float, [('>', 0), ('<=', _LARGEST_FLOAT)])
    NonNegativeInt = restricted_number_type('IntegerFrom0', int, [('>=', 0), ('<=', _LARGEST_INT)])
    PositiveInt = restricted_number_type('IntegerAbove0', int, [('>', 0), ('<=', _LARGEST_INT)])
