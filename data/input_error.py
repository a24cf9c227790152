"""A user's mistake: the programs of this folder print its one sentence and exit with code 2."""


class InputError(Exception):
    pass
