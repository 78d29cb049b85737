"""From plans and costs to plans."""
