"""Timing input pipelines end to end, and reporting what was measured."""
