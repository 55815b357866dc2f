"""Checks of one plugin, before it meets a suite: whether it keeps its contract, and what it does to
a small backdoor, in less than a minute on two cores.

- :mod:`bench.checking.table`: the checks that apply to a plugin;
- :mod:`bench.checking.process`: the same in a child process with limits, for ``castlewalls check``;
- :mod:`bench.testing`: the same in a test.
"""
