"""GRPO: a TPM is trained on what it did and how that was scored (section 3 of the paper)."""
