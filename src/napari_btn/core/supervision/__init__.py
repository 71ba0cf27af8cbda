"""What a member sees and learns from."""
