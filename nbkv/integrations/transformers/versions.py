"""Which libraries this package was written against, checked before they are imported."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

#: What is replaced in transformers is not a public interface: other versions have other parts.
TRANSFORMERS: Final = "5.23."
_INSTALL: Final = "pip install 'nbkv[transformers]'"


def check_versions() -> None:
    """Refuse other versions of transformers than the tested ones.

    Raises
    ------
    ImportError
        It says what was found and what to install.
    """
    for name in ("transformers", "torch", "psutil"):
        try:
            found = version(name)
        except PackageNotFoundError:
            raise ImportError(
                f"nbkv.integrations.transformers needs {name}, which is not installed: {_INSTALL}"
            ) from None
        if name == "transformers" and not found.startswith(TRANSFORMERS):
            raise ImportError(
                f"nbkv.integrations.transformers needs transformers {TRANSFORMERS}x;"
                f" transformers {found} is installed: {_INSTALL}"
            )
