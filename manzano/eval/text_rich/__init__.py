"""Text-rich benchmarks from local files."""
