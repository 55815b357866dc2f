"""Records -> tables -> one HTML file. Imports ``bench.record`` and ``bench.errors``, never torch:
it runs anywhere.
"""
