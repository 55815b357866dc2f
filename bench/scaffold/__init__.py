"""``castlewalls new``: a plugin to start from, as a package or as one file.

The templates are text with ``$name`` in it (:class:`string.Template`); what fills them is checked
names and words of ours, and nothing of it is run.
"""
