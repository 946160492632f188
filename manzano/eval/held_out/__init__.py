"""Drawings and edits of held-out samples, scored by their true pictures."""
