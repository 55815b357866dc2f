"""What the check of one plugin may take, if nobody says otherwise. Light: the command line reads it
at every start.
"""

SECONDS, MEMORY_MB = 60.0, 4096
