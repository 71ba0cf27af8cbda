"""Numbers only: arrays and settings in, arrays and small frozen values out."""
