"""Schedules, noise, forward processes, training and sampling: numerics over diffusers modules.
Imports nothing from the layers above.
"""
