"""What the tests of training, search and calibration on a running server share."""

import time

SECONDS = 300  # the most that a test waits for a run to get somewhere


def listed(server):
    """The policies of Load Policy's list."""
    spec = server.object_info("AsyncDiffLoadTPM")["input"]["required"]["name"]
    return spec[1]["options"] if isinstance(spec[0], str) else spec[0]


def stopped(server, prompt, reached):
    """Queue a run, press the stop button once `reached()` is true, and see that the host calls it interrupted."""
    queued, deadline = server.queue(prompt), time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    server.interrupt()
    assert "execution_interrupted" in [kind for kind, _ in server.wait(queued)["status"]["messages"]]
