"""Rollback RLHF: train on human preferences, and go back when people decline the result."""

__version__ = "0.1.0"
