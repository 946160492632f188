"""The versions of lmms-eval that the plug-in is tested with."""

from importlib.metadata import version

TESTED = "0.7."


def check_version(found: str | None = None) -> None:
    """Raises ImportError for an lmms-eval, by default the installed one, of another series: it may
    ask for other things, and scores by other rules."""
    found = found or version("lmms-eval")
    if not found.startswith(TESTED):
        raise ImportError(
            f"lmms-eval {found} is installed, and Manzano's plug-in is tested with {TESTED}* only: "
            f"pip install 'lmms-eval=={TESTED}*'"
        )
