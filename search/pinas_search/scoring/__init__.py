"""Scores of networks: what they are worth, and how well they rank."""
