"""Benchmarks of drawing and editing, in the folders of their official scorers."""
