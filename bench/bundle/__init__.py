"""A column of the matrix as a folder to send: what ``castlewalls submit`` writes and ``castlewalls
verify`` reads.
"""
