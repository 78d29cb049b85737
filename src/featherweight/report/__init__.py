"""What is told of a compression: figures, tables for a terminal, cards of papers."""
