"""Model cards: made from one source of facts, and checked against the code they describe."""

from .check import check_card
from .folder import folder_card
from .published import render_card
from .searched import LOCAL_FOLDER, searched_card

__all__ = ['LOCAL_FOLDER', 'check_card', 'folder_card', 'render_card', 'searched_card']
