"""Trials that kill commands at random moments and damage their files: `python -m tests.faults` (see __main__.py)."""
