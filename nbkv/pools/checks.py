"""What a pool refuses, wherever its memory is: by name, value and what is allowed.

Everything is checked before anything is launched or written.
"""

from nbkv._arguments import check_count
from nbkv.config import CacheConfig
from nbkv.pools.geometry import PoolGeometry


def check_config(config: object) -> None:
    """Check that a configuration is one."""
    if not isinstance(config, CacheConfig):
        raise TypeError(f"config is {config!r}; it must be a nbkv.CacheConfig")


def check_layer(geometry: PoolGeometry, layer: object) -> int:
    """Check the number of a layer."""
    return check_count("layer", layer, geometry.num_layers - 1)
