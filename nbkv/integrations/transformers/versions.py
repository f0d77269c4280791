"""Which transformers this was tested against; any other is refused by name."""

from importlib import metadata
from typing import Final

TESTED: Final = "5.23"
_INSTALL: Final = "pip install 'nbkv[transformers]'"


def check_versions() -> None:
    """Check that transformers and torch are there, and of a version that was tested.

    Raises
    ------
    ImportError
    """
    for library in ("torch", "transformers"):
        try:
            found = metadata.version(library)
        except metadata.PackageNotFoundError:
            wanted = f"nbkv.integrations.transformers needs {library}, which is not installed"
            raise ImportError(f"{wanted}; {_INSTALL}") from None
    if not found.startswith(f"{TESTED}."):
        raise ImportError(
            f"transformers is {found}; nbkv.integrations.transformers was tested with"
            f" {TESTED}.x only; {_INSTALL}"
        )
