"""The one exception that means: the user can fix this."""


class UserError(ValueError):
    """A wrong input: config, action, checkpoint, weights file, command line.

    The message is complete in itself: what is wrong, where, and what to do. The command line prints it as
    one line and exits with code 2; every layer raises it (or a subclass) for inputs it refuses.
    """
