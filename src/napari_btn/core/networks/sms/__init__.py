"""Random sparse mixed-scale networks, with passes written by hand."""
