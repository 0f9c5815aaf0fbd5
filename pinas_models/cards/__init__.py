"""Model cards: made from one source of facts, and checked against the code they describe."""

from .check import check_card
from .folder import folder_card
from .published import render_card

__all__ = ['check_card', 'folder_card', 'render_card']
