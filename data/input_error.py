"""The error for a user's mistake. The programs in this folder print its one sentence and exit with code 2."""


class InputError(Exception):
    pass
