"""What the node tells Prometheus: catalogue of families, snapshots rendered once, the server that sends them."""
