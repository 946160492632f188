"""Data: what a sample is, where samples come from, how they are mixed, packed and checked."""
