"""The Tokens dock."""
