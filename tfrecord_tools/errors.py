"""The one exception for what a user can mend."""


class InputError(ValueError):
    """Bad data or a user's mistake: one sentence saying what, where, and what to do.

    The command line prints it as `strokeseg-tf: error: ...` and exits with 2.
    """
