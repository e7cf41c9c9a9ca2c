"""The curve that a fixed policy is going to follow, for the live view before anything is queued.

`POST /asyncdiff/plan` takes the widgets of a sampler and of the node that makes its policy, and answers with σ, t*
and D per step. The front end only draws.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import comfy.model_sampling
import comfy.samplers

from ...tpm.errors import AsyncDiffError, PolicyError
from ...tpm.policies import Policy
from ...tpm.retiming.equations import distinct
from ...tpm.retiming.retimer import rehearse
from ...tpm.retiming.settings import Retiming
from .. import sockets
from . import nodes_policies
from .nodes_sampling import parse_gammas

log = logging.getLogger("asyncdiff")

ROUTE = "/asyncdiff/plan"
SHIFTS = {"sd3": 3.0, "flux": 3.16}  # flux: e^1.15, its shift at 1 megapixel
MOST_STEPS = 200


def plan(document: Mapping[str, Any]) -> dict[str, Any]:
    """σ, t* and D per step for {"policy": {"type", "widgets"}, "sampler": {widget: value}}.

    The grid assumes the shift that the policy's model family has by default; the run itself uses the model's own.
    Raises AsyncDiffError where nothing can be foretold.
    """
    policy = _policy(document.get("policy") or {})
    widgets = document.get("sampler") or {}
    grid = _grid(policy, widgets)
    traces = [rehearse(policy, _retiming(gamma, widgets), grid) for gamma in _gammas(widgets)]
    return {
        "sigmas": traces[0].sigmas,
        "t_star": list(zip(*(trace.t_star for trace in traces), strict=True)),
        "deviation": list(zip(*(trace.deviation for trace in traces), strict=True)),
        "proposed": list(zip(*(trace.proposed for trace in traces), strict=True)),
    }


def _gammas(widgets: Mapping[str, Any]) -> list[float]:
    """γ of the sampler, or every γ of a sweep: each step then has one t* for each."""
    if "gammas" in widgets:
        return parse_gammas(str(widgets["gammas"]))
    return [float(widgets.get("gamma", 1.0))]


def _retiming(gamma: float, widgets: Mapping[str, Any]) -> Retiming:
    return sockets.retiming_from(
        gamma,
        str(widgets.get("bound", "from policy")),
        int(widgets.get("tail_sync", 0)),
        float(widgets.get("velocity_coupling", 0.0)),
    )


def _policy(node: Mapping[str, Any]) -> Policy:
    kinds = {
        kind.GET_SCHEMA().node_id: kind for kind in (nodes_policies.ConstantDeviation, nodes_policies.DeviationCurve)
    }
    name, widgets = node.get("type"), node.get("widgets") or {}
    if name == nodes_policies.LoadTPM.GET_SCHEMA().node_id:
        return _fixed(str(widgets.get("name")))
    if name not in kinds:
        raise PolicyError("This policy is known only when it runs.")
    return kinds[name].policy(**widgets)


def _fixed(name: str) -> Policy:
    """The policy of a name in Load TPM's list, unless it decides from the latent; a TPM's weights are not read."""
    path = nodes_policies.policy_files().get(name)
    policy = None if path and path.suffix == ".safetensors" else nodes_policies.load(name)
    if policy is None or policy.needs_state:
        raise PolicyError("This policy decides while the image forms: its curve appears during the run.")
    return policy


def _grid(policy: Policy, widgets: Mapping[str, Any]) -> list[float]:
    """The sampler's own grid; 20 simple steps for a node that has no steps of its own."""
    steps = min(int(widgets.get("steps", 20)), MOST_STEPS)
    denoise = float(widgets.get("denoise", 1.0))
    sampling = comfy.model_sampling.ModelSamplingDiscreteFlow()
    sampling.set_parameters(shift=SHIFTS.get(policy.backbone or "sd3", 3.0))
    total = steps if denoise > 0.9999 else int(steps / max(denoise, 1e-3))
    sigmas = comfy.samplers.calculate_sigmas(sampling, str(widgets.get("scheduler", "simple")), total)
    return distinct(sigmas[-(steps + 1) :].tolist())


def add_route() -> None:
    """Serve the plan, where there is a server."""
    from aiohttp import web
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None:
        return

    @server.routes.post(ROUTE)
    async def answer(request: web.Request) -> web.Response:
        try:
            return web.json_response(plan(await request.json()))
        except AsyncDiffError as reason:
            return web.json_response({"reason": str(reason)})
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            log.debug("no plan: %s", error)
            return web.json_response({"reason": ""})  # a status of 400 would be an error in the browser's console
