"""Who races: this project's methods and what a user would pick instead, plain and idiomatic, one file each.

Each module lists what it has to offer in ``METHODS``; ``registry`` finds it there.
"""
