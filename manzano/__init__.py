"""Manzano: one model that reads, draws and edits images."""
