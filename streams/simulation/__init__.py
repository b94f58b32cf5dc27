"""The simulated city: records that could have come from a real one, and the truth about them."""
