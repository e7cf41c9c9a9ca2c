"""Training a TPM: roll out, score, turn scores into advantages, update; with checkpoints, probes and early stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...policies import solver_in
from ...policies.checkpoint import Card, save_tpm
from ...policies.network import TPM
from ...retiming.equations import logits_of_mode, ratio_of
from ..distributed import Processes
from ..prompts import PromptOrder
from ..resume import load_state, save_state
from ..stopwatch import Stopwatch
from ..studio import Scorer, Studio, derive, joined, scored
from .advantages import RunningStd, SignalError, advantages, rewards
from .early_stop import reason_to_stop
from .journal import Iteration, Journal, summarise
from .probe import Probe
from .recipe import Recipe
from .rollout import Batch, Sample, roll_out
from .update import Averaged, Learner, TrustRegion, minibatches

STATE, TPM_FILE, JOURNAL = "state.pt", "tpm.safetensors", "journal.jsonl"
SAVE_SECONDS = 60.0


@dataclass
class Outcome:
    """How a run ended."""

    iterations: int
    reason: str | None  # why it stopped early; None when it was finished
    tpm: Path | None  # the averaged TPM, on the process that is_main


@dataclass
class Trainer:
    """One run. `run` starts it or goes on with it; the folder holds everything that was made."""

    studio: Studio
    scorer: Scorer
    prompts: PromptOrder
    recipe: Recipe
    folder: Path
    processes: Processes = field(default_factory=Processes.current)
    metrics: Mapping[str, str] = field(default_factory=dict)  # name → version of the weights, for the card
    on_record: Callable[[dict[str, Any]], None] = lambda record: None  # noqa: ARG005
    save_seconds: float = SAVE_SECONDS
    name: str = "tpm"

    def __post_init__(self) -> None:
        self.stopwatch = Stopwatch()
        self.iteration = 0
        self.tpm = make_tpm(self.studio, self.recipe)
        with torch.inference_mode(False):
            self.averaged = Averaged(self.tpm, self.recipe.ema)
        self.optimizer = torch.optim.AdamW(self.tpm.parameters(), lr=self.recipe.learning_rate, weight_decay=0.0)
        self.usual = RunningStd()
        self.sigmas = self.studio.sigma_grid(self.recipe.steps)
        self.probe = Probe(self.studio, self.scorer, self.recipe, self._probe_prompts(), self.processes)
        self.journal = Journal(self.folder / JOURNAL, writes=self.processes.is_main)

    def run(self, resume: bool = False) -> Outcome:
        """Train to the recipe's last iteration, or to a reason to stop.

        An interrupt or an error loses the iteration in progress, or where that was beyond its update, the work since
        the last save (at most `save_seconds`). Raises ResumeError for a folder of another run, and
        whatever the studio or the scorer raise.
        """
        if resume:
            self._resume()
        self.journal.cut(self.iteration)
        reason, saved = None, time.monotonic()
        try:
            while self.iteration < self.recipe.iterations and reason is None:
                record = self.iterate()
                self.journal.add(record)
                self._whole = True
                self.on_record(record)
                reason = reason_to_stop(self.journal.recent(), self.recipe)
                if time.monotonic() - saved > self.save_seconds:
                    self.save()
                    saved = time.monotonic()
        finally:
            if self._whole:
                self.save()
        return Outcome(self.iteration, reason, self._export(reason) if self.processes.is_main else None)

    def iterate(self) -> dict[str, Any]:
        """One iteration. Returns its record; every process has the same one."""
        began, saved = time.monotonic(), self.studio.saved_evaluations
        samples = self._samples()
        if self._compares(self.iteration + 1):
            self.save()  # a stop during the comparison, which takes long, loses this iteration alone
        with torch.inference_mode(False):
            made = self._explore(samples)
            self._whole = False
            self._judge(made)
            self._learn(made)
            self.iteration += 1
        record = summarise(self.iteration, made, self.recipe.bound, self.processes) | {"probe": self._probe()}
        record["saved_evaluations"] = sum(self.processes.gather(self.studio.saved_evaluations - saved))
        return record | {"seconds": time.monotonic() - began, "time": self.stopwatch.shares()}

    def save(self) -> None:
        """Write the state of the last complete iteration."""
        if not self.processes.is_main:
            return
        state = {
            "iteration": self.iteration,
            "tpm": self.tpm.state_dict(),
            "averaged": self.averaged.weights,
            "optimizer": self.optimizer.state_dict(),
            "usual": self.usual.values,
            "probe": self.probe.reference,
        }
        save_state(self.folder / STATE, self._facts(), state)

    # --- inside ---------------------------------------------------------------------------------------------------

    _whole: bool = field(default=True, init=False)  # False from a change of the weights to the iteration's record

    def _samples(self) -> list[Sample]:
        """The trajectories of this iteration, of all processes."""
        recipe, noises = self.recipe, self.recipe.noises or self.recipe.group
        samples: list[Sample] = []
        for p in range(recipe.prompts_per_iteration):
            prompt = self.prompts[self.iteration * recipe.prompts_per_iteration + p]
            for n in range(noises):
                noise = recipe.seed_of("noise", self.iteration, p, n)
                group = p * noises + n if recipe.actions > 1 else p
                actions = [recipe.seed_of("actions", self.iteration, p, n, a) for a in range(recipe.actions)]
                samples += [Sample(prompt, noise, seed, group, len(samples) + a) for a, seed in enumerate(actions)]
        return samples

    def _explore(self, samples: Sequence[Sample]) -> Iteration:
        """Render this process' trajectories, and gather the raw scores of all."""
        mine, size = self.processes.share(samples), self.recipe.render_batch
        parts = [mine[start : start + size] for start in range(0, len(mine), size)]
        batches: list[Batch] = []

        def work() -> list[dict[str, Tensor]]:
            batches.extend(self._roll_out(part) for part in parts)
            return [self._score(batch.images, part) for batch, part in zip(batches, parts, strict=True)]

        scores = [part for everybody in self.processes.run_everywhere(work) for part in everybody]
        return Iteration(samples, batches, joined(scores))

    def _roll_out(self, samples: Sequence[Sample]) -> Batch:
        recipe = self.recipe
        return roll_out(self.studio, self.tpm, samples, recipe.steps, recipe.retiming, self.stopwatch)

    def _score(self, images: Tensor, samples: Sequence[Sample]) -> dict[str, Tensor]:
        if self.recipe.null_reward:
            # Not the actions' own generator: a score drawn from it would know the action.
            draws = [torch.Generator().manual_seed(derive("null", sample.actions)) for sample in samples]
            return {"null": torch.cat([torch.randn(1, generator=draw) for draw in draws])}
        with self.stopwatch("rewards"):
            return scored(self.scorer, images, [sample.prompt for sample in samples])

    def _judge(self, made: Iteration) -> None:
        """Turn the scores into advantages, or say why there is nothing to learn."""
        groups = [sample.group for sample in made.samples]
        weights = None if self.recipe.null_reward else self.recipe.weights
        try:
            advantage = advantages(rewards(made.scores, groups, weights, self.usual), groups)
        except SignalError as error:
            made.problem = str(error)
            return
        if advantage.any():
            made.advantage = advantage
        else:
            made.problem = "All trajectories of each group were judged equal; this iteration teaches nothing."

    def _learn(self, made: Iteration) -> None:
        """Update the TPM, where there is something to learn."""
        if made.advantage is None:
            return
        recipe = self.recipe
        shuffle = torch.Generator().manual_seed(recipe.seed_of("minibatches", self.iteration))
        parts = list(minibatches(len(made.advantage), recipe.minibatch, shuffle))
        trust = TrustRegion(recipe.kl_limit, recipe.learning_rate) if recipe.kl_limit else None
        learner = Learner(self.tpm, self.optimizer, recipe.clip, self.processes, self.averaged, trust)
        with self.stopwatch("update"), torch.enable_grad():
            made.stats = learner.update(made.batches, made.advantage, parts)

    def _probe(self) -> dict[str, Any] | None:
        """The comparison with the synchronous sampler, when it is due."""
        if not self._compares(self.iteration):
            return None
        with self.stopwatch("probe"):
            return self.probe.compare(self.tpm, self.usual)

    def _compares(self, iteration: int) -> bool:
        """Whether an iteration ends with a comparison."""
        every = self.recipe.probe_every
        return bool(every) and (iteration % every == 0 or iteration == self.recipe.iterations)

    def _probe_prompts(self) -> list[str]:
        """Prompts for the probes: from the end of the first epoch, so that the first iterations do not see them."""
        count = min(self.recipe.probes, len(self.prompts.prompts))
        return [self.prompts[len(self.prompts.prompts) - 1 - number] for number in range(count)]

    def _resume(self) -> None:
        if not (self.folder / STATE).is_file():
            return
        with torch.inference_mode(False):
            state = load_state(self.folder / STATE, self._facts())
            self.tpm.load_state_dict(state["tpm"])
            self.averaged.weights = {name: value.to(self.studio.device) for name, value in state["averaged"].items()}
            self.optimizer.load_state_dict(state["optimizer"])
        self.iteration = int(state["iteration"])
        self.usual.values = dict(state["usual"])
        self.probe.reference = state["probe"]

    def _facts(self) -> dict[str, Any]:
        """What must not change within a run: everything that decides its numbers but how long it is."""
        recipe = self.recipe.to_dict()
        del recipe["iterations"]
        if not recipe["kl_limit"]:
            del recipe["kl_limit"]  # so that runs of releases without it go on
        return {
            **recipe,
            **self.studio.describe(),
            "sigmas": self.sigmas,
            "sigma_min": self.recipe.retiming.sigma_min,
            "metrics": dict(self.metrics),
            "prompts": self.prompts.fingerprint,
        }

    def _export(self, reason: str | None) -> Path:
        """The averaged TPM with its card."""
        tpm = TPM(self.tpm.config)
        tpm.load_state_dict(self.averaged.weights)
        about = {
            "source": f"GRPO, {self.iteration} iterations" + (f", stopped: {reason}" if reason else ""),
            "steps": self.recipe.steps,
            "images": self.iteration * self.recipe.prompts_per_iteration * self.recipe.group,
            "training": self.recipe.to_dict(),
            "sampling": self.studio.describe(),
            "solver": solver_in(self.studio.describe()),
            "prompts": len(self.prompts.prompts),
        }
        card = Card(
            self.tpm.config.backbone,
            self.recipe.bound,
            "tpm",
            self.sigmas,
            dict(self.journal.last_probe() or {}),
            about,
        )
        return save_tpm(self.folder / TPM_FILE, tpm, card)


def make_tpm(studio: Studio, recipe: Recipe) -> TPM:
    """A fresh TPM on the studio's device: everywhere the mode is 0.5 + start / 2B."""
    with torch.inference_mode(False), torch.random.fork_rng():
        torch.manual_seed(recipe.seed_of("tpm"))
        tpm = TPM(studio.tpm_config(**recipe.tpm))
        with torch.no_grad():
            tpm.head.last.bias.copy_(torch.tensor(logits_of_mode(float(ratio_of(recipe.start, recipe.bound)))))
        return tpm.to(studio.device)
