"""Steps that combine several stages into one action of the user."""
