"""Environments that answer a policy between its turns, and the episodes that the two write together."""
