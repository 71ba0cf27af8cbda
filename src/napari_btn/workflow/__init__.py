"""Steps that order several stages into one action of the user."""
