"""vLLM's block pool over nbkv, and how it gets into vLLM's place."""

from nbkv.integrations.vllm.install import install, installed, uninstall
from nbkv.integrations.vllm.pool import BlockPool

__all__ = ["BlockPool", "install", "installed", "uninstall"]
