"""The node file: schema, reader, errors with line and path."""
