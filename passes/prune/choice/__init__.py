"""Which channels go: candidates, scopes and budgets."""
