"""Brings in what others have published: weights in any of the layouts that are in use, as an attack
of their own, and the files that a paper's testbed needs.
"""
