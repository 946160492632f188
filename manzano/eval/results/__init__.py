"""What becomes of score files."""
