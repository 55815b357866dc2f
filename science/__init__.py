"""The papers' claims held against records: run from a checkout as ``python -m science``, never
installed.
"""
