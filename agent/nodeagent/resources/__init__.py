"""One file per section of the node file: observe through ports, plan as a pure function, steps."""
