"""Suites into records: plan (cells -> stages), store (content-addressed), executor, run. Importing
this package loads nothing heavy.
"""
