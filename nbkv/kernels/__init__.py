"""All that changes an arena, one job a file; called by the facade and by each other."""
