"""Supervision: the inputs and targets that members learn from."""
