"""What tests of asynchronous sampling inside ComfyUI share."""


def asynchronous(model, gamma=1.0, deviation=0.4, watcher=None, **settings):
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.policies import Constant
    from asyncdiff.tpm.retiming.settings import Retiming

    return attach(model, Constant(deviation), Retiming(gamma=gamma, **settings), watcher)


def call(node, *args, **options):
    """The first output of a core node, of the V3 kind or of the V1 kind that older hosts have."""
    if hasattr(node, "execute"):
        return node.execute(*args, **options).args[0]
    return getattr(node(), node.FUNCTION)(*args, **options)[0]


class Log:
    """A watcher that keeps everything."""

    def __init__(self):
        self.runs, self.steps, self.traces = [], [], []

    def begun(self, sigmas):
        self.runs.append(sigmas)

    def conditioned(self, step, decision):
        self.steps.append((step, decision.t_star))

    def finished(self, trace):
        self.traces.append(trace)
