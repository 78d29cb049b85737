"""What a model costs: size, operations."""
