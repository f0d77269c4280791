"""nbkv inside programs that others wrote; each subpackage needs what its name says."""
