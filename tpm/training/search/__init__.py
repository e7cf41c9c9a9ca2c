"""The search for a policy without gradients: constants, then a curve."""
