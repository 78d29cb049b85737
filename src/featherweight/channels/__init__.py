"""Which channels matter, who stands in for those that go, and rules that cut by it."""
