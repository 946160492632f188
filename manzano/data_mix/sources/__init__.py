"""The sources of the demo corpus, one file each.

A source is a module with `samples(split, *, image_size, seed) -> Iterator[Sample]` for the splits
"train" and "test", and NAME, LICENCE, ATTRIBUTION and PACKAGES (distributions that hold its data).
The same arguments give the same samples, and no concept occurs in both splits.
"""
