"""What a server complained of."""

MARKS = ("[WARNING]", "[ERROR]", "Traceback", "RuntimeWarning", "unet missing", "unet unexpected", "VAE missing")
HOSTS_OWN = ("no CLIP/text encoder weights in checkpoint",)


def complaints(log):
    """Warnings and errors in a piece of a log, without those that the host makes of any small checkpoint."""
    lines = [line for line in log.splitlines() if any(mark in line for mark in MARKS)]
    return [line for line in lines if not any(own in line for own in HOSTS_OWN)]
