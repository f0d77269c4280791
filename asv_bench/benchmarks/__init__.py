"""Benchmarks by subject; they share their set-up with `nbkv bench`."""
