"""The exception that carries a message to the user."""

from __future__ import annotations


class UserError(Exception):
    """The user's input is wrong.

    The message is one sentence that names the file, node or option and says what to do.
    The command line prints it without a traceback and exits with :attr:`exit_code`.
    """

    exit_code = 2
