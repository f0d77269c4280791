"""Adapters that put nbkv into engines that others wrote; each imports its engine only when used."""
