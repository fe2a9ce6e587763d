"""Do the learning rates that the library advises hold? Measured on small networks of every kind."""
