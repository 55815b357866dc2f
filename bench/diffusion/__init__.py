"""Schedules, noise, forward processes, training and sampling: numerics over diffusers modules.
Knows nothing above it.
"""
