"""Immutable value types of what is observed on a node; no I/O and nothing that was merely wished for."""
