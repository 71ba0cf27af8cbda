"""Training of members, in processes or together on a graphics card."""
