"""The curve that a fixed policy is going to follow, for the live view before anything is queued.

`POST /asyncdiff/plan` takes {"policy": {"type", "widgets"}, "model": {"type", "widgets"}, "sampler": {widget: value}}:
the widgets of a sampler, of the node that makes its policy and of the one that loads its model, each where there is
one. It answers with σ, t* and D per step, or a reason why not. The front end only draws.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar

import comfy.model_sampling
import comfy.samplers

from ...tpm.documents import STRICT, build
from ...tpm.errors import AsyncDiffError, PolicyError
from ...tpm.files import parse_json
from ...tpm.policies import Policy, load_policy
from ...tpm.retiming.equations import distinct
from ...tpm.retiming.foretold import rehearse
from ...tpm.retiming.settings import Retiming
from ...tpm.usual import PRESETS
from .. import sockets
from ..messages import message
from . import nodes_policies
from .axes import parse_gammas
from .fit import Seen, made_of_file, refuse_unless, solver_advice
from .model_files import seen_before
from .policy_names import AUTOMATIC, listed, policy_files, title_of

log = logging.getLogger("asyncdiff")

ROUTE = "/asyncdiff/plan"
SHIFTS = {"sd3": 3.0, "flux": 3.16}  # flux: e^1.15, its shift at 1 megapixel
MOST_STEPS = 200
MOST_LETTERS = 100_000


class PlanError(AsyncDiffError):
    """A question that no front end of ours asks."""


@dataclass(frozen=True)
class Maker:
    """The node that makes the policy or loads the model, and its widgets by name."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    type: str
    widgets: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Widgets:
    """What decides the curve on the node that samples. A node without a widget of that name sends none."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    gamma: float = 1.0
    gammas: str | None = None
    bound: str = "from policy"
    tail_sync: int = 0
    velocity_coupling: float = 0.0
    steps: int = 20
    denoise: float = 1.0
    scheduler: str = "simple"
    start_at_step: int = 0
    end_at_step: int = 10_000
    return_with_leftover_noise: str = "disable"
    stay_in_part: bool = False
    sampler_name: str = ""

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.denoise <= 1:
            raise PlanError("steps must be 1 or more, and denoise more than 0 and at most 1")
        if self.scheduler not in comfy.samplers.KSampler.SCHEDULERS:
            raise PlanError(f"this ComfyUI has no scheduler {self.scheduler[:40]!r}")


@dataclass(frozen=True)
class Question:
    """The body of a request."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    sampler: Widgets
    policy: Maker | None = None
    model: Maker | None = None


@dataclass(frozen=True)
class Loaded:
    """The widgets of Load Policy."""

    name: str
    readout: str = "mode"


@dataclass(frozen=True)
class Deviation:
    """The widget of Constant Deviation."""

    deviation: float


@dataclass(frozen=True)
class Drawn:
    """The widgets of Deviation Curve; the curve is core's, or text."""

    curve: Any
    bound: float
    axis: str = "sigma"
    points: str = ""


def plan(text: str) -> dict[str, Any]:
    """σ, t* and D per step for the JSON of a `Question`.

    The grid assumes the shift that the policy's model family has by default; the run itself uses the model's own.
    Raises AsyncDiffError where nothing can be foretold.
    """
    if len(text) > MOST_LETTERS:
        raise PlanError(f"The question has {len(text)} letters, more than {MOST_LETTERS}.")
    question = build(Question, parse_json(text, PlanError, "The question"), PlanError, "The question")
    policy, notes = decided(question)
    widgets = question.sampler
    grid = _grid(policy, widgets)
    part = _part(grid, widgets)
    traces = [rehearse(policy, _retiming(gamma, widgets), part, grid) for gamma in _gammas(widgets)]
    return {
        "sigmas": traces[0].sigmas,
        "t_star": list(zip(*(trace.t_star for trace in traces), strict=True)),
        "deviation": list(zip(*(trace.deviation for trace in traces), strict=True)),
        "proposed": list(zip(*(trace.proposed for trace in traces), strict=True)),
        "notes": notes,
    }


def _gammas(widgets: Widgets) -> list[float]:
    """γ of the sampler, or every γ of a sweep: each step then has one t* for each."""
    return [widgets.gamma] if widgets.gammas is None else parse_gammas(widgets.gammas)


def _retiming(gamma: float, widgets: Widgets) -> Retiming:
    return sockets.retiming_from(
        gamma, widgets.bound, widgets.tail_sync, widgets.velocity_coupling, widgets.stay_in_part
    )


def _part(grid: list[float], widgets: Widgets) -> list[float]:
    """The part of the grid that KSampler (Advanced) samples with these widgets."""
    part = grid[widgets.start_at_step : widgets.end_at_step + 1]
    if len(part) < 2:
        raise PlanError("No step lies between start_at_step and end_at_step.")
    if widgets.return_with_leftover_noise == "disable":
        part[-1] = 0.0
    return part


def decided(question: Question) -> tuple[Policy, list[str]]:
    """The policy whose curve is drawn, and what is to be said beside it.

    Raises AsyncDiffError with the reason why there is no curve: above all a policy that does not fit the model.
    """
    model = seen_before(question.model.type, question.model.widgets) if question.model else None
    maker = question.policy
    name = AUTOMATIC if maker is None else _name_in_list(maker)
    if name is None:
        return _made(maker), []
    why = "" if name != AUTOMATIC else "No policy: " if maker is None else "Automatic: "
    if name == AUTOMATIC:
        name = _preset_of(model, why)
        why += f"the model's preset decides, {name}. "
    made = made_of_file(policy_files()[name])
    if model is not None:
        refuse_unless(made, name, model)
    advice = solver_advice(made, name, question.sampler.sampler_name, model)
    remarks = [remark for remark in (why.strip(), advice) if remark]
    return _fixed(name, remarks), remarks


def _name_in_list(maker: Maker) -> str | None:
    """What Load Policy is set to; None for another node."""
    if maker.type != nodes_policies.LoadTPM.GET_SCHEMA().node_id:
        return None
    return listed(build(Loaded, maker.widgets, PlanError, "Load Policy").name)


def _preset_of(model: Seen | None, why: str) -> str:
    """The list's name of the preset of a model."""
    if model is None:
        raise PolicyError(f"{why}the model's preset decides, where it has one. The curve appears during the run.")
    preset = model.preset or PRESETS.get(model.family)
    if preset is None:
        raise PolicyError(f"{why}and {model.called} has no preset: the run is that of the ordinary sampler.")
    return title_of(preset)


def _made(maker: Maker | None) -> Policy:
    """The policy of a node that has it in its widgets."""
    for kind, form in ((nodes_policies.ConstantDeviation, Deviation), (nodes_policies.DeviationCurve, Drawn)):
        if maker and maker.type == kind.GET_SCHEMA().node_id:
            return kind.policy(**vars(build(form, maker.widgets, PlanError, maker.type)))
    raise PolicyError("This policy is known only when it runs.")


def _fixed(name: str, remarks: list[str]) -> Policy:
    """The policy of a name in the list, unless it decides from the latent; a TPM's weights are not read."""
    path = policy_files()[name]
    policy = None if path.suffix == ".safetensors" else load_policy(path)
    if policy is None or policy.needs_state:
        reason = "This policy decides while the image forms: its curve appears during the run."
        raise PolicyError(" ".join([*remarks, reason]))
    return policy


def _grid(policy: Policy, widgets: Widgets) -> list[float]:
    """The sampler's own grid; 20 simple steps for a node that has no steps of its own."""
    steps = min(widgets.steps, MOST_STEPS)
    sampling = comfy.model_sampling.ModelSamplingDiscreteFlow()
    sampling.set_parameters(shift=SHIFTS.get(policy.backbone or "sd3", 3.0))
    total = steps if widgets.denoise > 0.9999 else int(steps / max(widgets.denoise, 1e-2))
    sigmas = comfy.samplers.calculate_sigmas(sampling, widgets.scheduler, total)
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
            return web.json_response(plan(await request.text()))
        except AsyncDiffError as reason:
            return web.json_response({"reason": message(reason)})
        except Exception as error:  # a curve that is not shown must not be an error in the browser's console
            log.debug("no plan", exc_info=error)
            return web.json_response({"reason": ""})
