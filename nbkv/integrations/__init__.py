"""Bridges into programs that others wrote: nothing else here imports their libraries."""
