"""A package, so that processes which tests start find it before what others install as `tests`."""
