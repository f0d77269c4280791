"""nbkv beside an engine's own block manager: fed by its calls, it says where they part."""

from nbkv.shadow.differences import Difference, ShadowError
from nbkv.shadow.shadow import Shadow

__all__ = ["Difference", "Shadow", "ShadowError"]
