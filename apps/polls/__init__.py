"""Questions, votes and results: Django with its admin."""
