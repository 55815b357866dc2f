"""The stages: each reads its inputs' folders, computes one thing, and writes its own folder. One
stage, one file.
"""
