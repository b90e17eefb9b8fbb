"""The loop that keeps the node as the file says, and everyone who may wake or question it."""
