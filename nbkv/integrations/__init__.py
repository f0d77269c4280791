"""nbkv inside programs that others wrote; each module needs what its name says."""
