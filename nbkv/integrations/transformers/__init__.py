"""Hugging Face transformers on nbkv's blocks."""

from nbkv.integrations.transformers.versions import check_versions

check_versions()

from nbkv.integrations.transformers.paged_cache import PagedCache  # noqa: E402
from nbkv.integrations.transformers.reuse import Admitted  # noqa: E402
from nbkv.integrations.transformers.shapes import model_shape  # noqa: E402

__all__ = ["Admitted", "PagedCache", "model_shape"]
