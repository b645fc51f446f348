"""Weights on disk: cards, storage, and the formats of other programs."""
