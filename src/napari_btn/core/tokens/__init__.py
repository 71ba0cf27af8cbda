"""Clusters of the latent vectors of pixels."""
