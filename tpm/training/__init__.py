"""Making policies and knowing whether they help: GRPO, RL-free search, evaluation.

Everything here knows a `Studio` (prompts, seeds and a policy in, images and a trace out) and a `Scorer` (images and
prompts in, raw scores out), never a host. `rollout` records what a TPM saw and did, `advantages` turns scores into
learning signals, `grpo` makes one update, `trainer` repeats it; `search` and `evaluate` need no gradient at all.
"""
