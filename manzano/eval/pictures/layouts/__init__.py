"""Benchmarks of drawings and edits: their prompt files, and the folders their scorers read."""
