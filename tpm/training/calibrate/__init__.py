"""A policy from the spectrum of a many-step run: no rewards, no pictures. Experimental."""
