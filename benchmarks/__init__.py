"""Where the time goes: benchmarks of this package against itself. Not installed; run ``python -m
benchmarks`` in a checkout.
"""
