"""The words everything else is made of. Imports no other room."""
