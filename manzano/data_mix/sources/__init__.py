"""The sources of the demo corpus, one file each.

A source is a function `samples(split, *, image_size, seed) -> Iterator[Sample]` for the splits "train"
and "test": the same arguments give the same samples, and no concept occurs in both splits.
"""
