"""Judging images: one file per metric family."""
