"""What tests of asynchronous sampling inside ComfyUI share."""


def asynchronous(model, gamma=1.0, deviation=0.4, watcher=None, whole=None, **settings):
    from asyncdiff.nodes.retiming.patch import attach
    from asyncdiff.tpm.policies import Constant
    from asyncdiff.tpm.retiming.settings import Retiming

    return attach(model, Constant(deviation), Retiming(gamma=gamma, **settings), watcher, whole=whole)


def call(node, *args, **options):
    """The first output of a core node, of the V3 kind or of the V1 kind that older hosts have."""
    if hasattr(node, "execute"):
        return node.execute(*args, **options).args[0]
    return getattr(node(), node.FUNCTION)(*args, **options)[0]


class Log:
    """A watcher that keeps everything."""

    watching = True

    def __init__(self):
        self.runs, self.steps, self.traces = [], [], []

    def begun(self, sigmas):
        self.runs.append(sigmas)

    def conditioned(self, step, decision):
        self.steps.append((step, decision.t_star))

    def finished(self, trace):
        self.traces.append(trace)


def block_after_block(patched):
    """Two equal blocks of an autoregressive sampler: each is shown at σ = 0 for the memory of the model, then made."""
    import itertools

    import comfy.sample
    import comfy.samplers
    import torch

    from support import stand_ins

    def blocks(model, x, sigmas, extra_args, callback, disable):
        done, one = [], x.new_ones([len(x)])
        for _ in range(2):
            block = x
            model(block, 0 * one, **extra_args)
            for sigma, after in itertools.pairwise(sigmas):
                block = block + (after - sigma) * (block - model(block, sigma * one, **extra_args)) / sigma
            done.append(block)
        return torch.cat(done)

    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    return comfy.sample.sample_custom(
        patched, noise, 1.0, comfy.samplers.KSAMPLER(blocks), torch.tensor([1.0, 0.9, 0.7, 0.4, 0.0]),
        stand_ins.conditioning(), stand_ins.conditioning(1), torch.zeros_like(noise),
    )  # fmt: skip


def sweep(gammas, title="swept"):
    """A prompt with γ Sweep on the embedded pipeline; a node "gammas" gives its list as text."""
    return {
        "pipe": {"class_type": "AsyncDiffLoadEmbeddedPipeline", "inputs": {}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["pipe", 1], "text": "a red circle"}},
        "latent": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
        "policy": {"class_type": "AsyncDiffConstantDeviation", "inputs": {"deviation": 0.3}},
        "gammas": {"class_type": "PrimitiveString", "inputs": {"value": gammas}},
        "sweep": {
            "class_type": "AsyncDiffGammaSweep",
            "inputs": {
                "model": ["pipe", 0], "seed": 1, "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple",
                "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["latent", 0], "denoise": 1.0,
                "vae": ["pipe", 2], "policy": ["policy", 0], "gammas": gammas, "bound": "from policy", "tail_sync": 0,
                "velocity_coupling": 0.0, "title": title,
            },
        },
        "grid": {"class_type": "PreviewImage", "inputs": {"images": ["sweep", 0]}},
    }  # fmt: skip
