"""What the check of one plugin may take, if nobody says otherwise; not counted is the time for
which a busy machine has no core for it, up to four times as long. Light: the command line reads it
at every start.
"""

SECONDS, MEMORY_MB = 60.0, 4096
