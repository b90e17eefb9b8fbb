"""Proofs that the node works: what is tried on it, what came out, and the ready files that others wait for."""
