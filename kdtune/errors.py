"""What ends a command, and with which exit status. Imports nothing: what only reads results starts without torch."""


class UserError(Exception):
    """What a user can mend: one line that says what, where and what to do. The command line exits with 2."""


class RunError(Exception):
    """A run that could not finish: what, where the log is, how to continue. The command line exits with 1."""


class Interrupted(RunError):
    """Ctrl-C or SIGTERM ended the run in order; what is finished is kept. The command line exits with 130."""


class Stuck(RunError):
    """A part of this process hangs and cannot be ended, so that the process must not wait for it when it ends."""


class Lost(RunError):
    """The cluster under the run is gone. Ray ends a process that goes on for long after that."""
