"""The contracts: what a plugin is, what it is handed, and what it must keep.

Read :mod:`plugin`, :mod:`data` and :mod:`access`, then the family you write: :mod:`attack`,
:mod:`defense` or :mod:`detector`. :mod:`checks` has the contract as functions. Plugins import all
names from :mod:`bench.plugin`.
"""
