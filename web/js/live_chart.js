/** The drawing: a unit square of SVG that the browser stretches, so that it is sharp at any size, zoom and theme. */

const MOST_DOTS = 40; // more steps are a line without dots
const SAME_GRID = 1e-3;
const USUAL_BOUND = 0.5; // steps

const MARKUP = `
<style>
div:has(> .asyncdiff-chart) { pointer-events: none !important; } /* drag and zoom go to the node beneath */
.asyncdiff-chart {
  --accent: var(--p-primary-color, #60a5fa);
  position: relative; box-sizing: border-box; width: 100%; height: 100%; overflow: hidden;
  font: 11px/1.2 Inter, Arial, sans-serif; color: var(--input-text, #ddd);
  background: color-mix(in srgb, var(--comfy-input-bg, #222) 45%, transparent);
  border: 1px solid var(--border-color, #4e4e4e); border-radius: 6px;
}
.asyncdiff-chart svg { position: absolute; left: 18px; width: calc(100% - 28px); overflow: visible; }
.asyncdiff-chart .curves { top: 12px; height: calc(100% - 50px); }
.asyncdiff-chart .lane { bottom: 8px; height: 20px; }
.asyncdiff-chart path { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round; stroke-linecap: round; }
.asyncdiff-chart .bars { stroke: var(--accent); stroke-width: 4; stroke-linecap: butt; }
.asyncdiff-chart .cut { stroke: var(--accent); stroke-width: 1.5; stroke-dasharray: 2 2; opacity: .8; }
.asyncdiff-chart .frame { stroke: var(--border-color, #4e4e4e); stroke-width: 1; opacity: .6; }
.asyncdiff-chart .sigma { stroke: var(--descrip-text, #999); stroke-width: 1.25; stroke-dasharray: 4 3; }
.asyncdiff-chart .plan, .asyncdiff-chart .line { stroke: var(--accent); stroke-width: 2; }
.asyncdiff-chart .plan { stroke-width: 1.5; }
.asyncdiff-chart .dots { stroke: var(--accent); stroke-width: 5; }
.asyncdiff-chart .gap, .asyncdiff-chart .band { fill: var(--accent); opacity: .18; }
.asyncdiff-chart[data-state=running] .plan, .asyncdiff-chart[data-state=done] .plan { opacity: .35; }
.asyncdiff-chart span { position: absolute; white-space: nowrap; }
.asyncdiff-chart .tick { left: 6px; color: var(--descrip-text, #999); }
.asyncdiff-chart .of-lane { left: 20px; bottom: 28px; font-size: 9.5px; line-height: 1; }
.asyncdiff-chart .legend { right: 8px; top: 5px; }
.asyncdiff-chart .legend i {
  display: inline-block; width: 16px; margin: 0 4px 3px 8px; border-top: 2px solid var(--accent);
}
.asyncdiff-chart .legend i.of-sigma { border-top: 1.5px dashed var(--descrip-text, #999); }
.asyncdiff-chart .label { right: 8px; top: 21px; max-width: 70%; white-space: normal; text-align: right; }
.asyncdiff-chart .reason {
  inset: 0; display: flex; align-items: center; justify-content: center; padding: 0 16px;
  text-align: center; white-space: normal; color: var(--descrip-text, #999);
}
.asyncdiff-chart[data-state=empty] .legend, .asyncdiff-chart[data-state=empty] .label,
.asyncdiff-chart[data-state=empty] .tick, .asyncdiff-chart[data-state=empty] svg { display: none; }
.asyncdiff-chart[data-lane=empty] .lane, .asyncdiff-chart[data-lane=empty] .of-lane { display: none; }
.asyncdiff-chart:not([data-state=empty]) .reason { display: none; }
</style>
<svg class="curves" viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true">
  <path class="frame" d="M0 0V1H1"/><path class="gap"/><path class="band"/><path class="sigma"/><path class="plan"/>
  <path class="line"/><path class="dots"/>
</svg>
<svg class="lane" preserveAspectRatio="none" aria-hidden="true">
  <path class="bars"/><path class="cut"/><path class="frame" d="M0 0H1"/>
</svg>
<span class="tick" style="top: 6px">1</span><span class="tick" style="bottom: 32px">0</span>
<span class="tick of-lane">deviation (D)</span>
<span class="legend"><i class="of-sigma"></i>noise level (σ)<i></i>model is told (t*)</span>
<span class="label"></span><span class="reason"></span>`;

/**
 * One chart. `element` carries what it shows: data-state is empty (a reason at most), plan, running or done, and
 * data-steps how many t* are drawn.
 */
export class LiveChart {
  static HEIGHT = 120;

  constructor() {
    this.element = document.createElement("div");
    this.element.className = "asyncdiff-chart";
    this.element.style.minHeight = `${LiveChart.HEIGHT}px`;
    this.element.innerHTML = MARKUP;
    this.plan = null;
    this.run = null;
    this.key = null; // the question that the plan answers
    this.show("empty");
  }

  /** Whether the question is a new one; from then on it is this chart's. */
  asks(question) {
    const key = JSON.stringify(question);
    const isNew = key !== this.key;
    this.key = key;
    return isNew;
  }

  /** The server's answer {sigmas, t_star, deviation, proposed} or {reason}; a run that began since it was asked stays. */
  foreseen(answer, runWhenAsked) {
    this.plan = answer.sigmas ? answer : null;
    this.text("reason", answer.reason ?? "");
    if (this.run !== runWhenAsked || this.state === "running") return;
    this.run = null;
    this.show(this.plan ? "plan" : "empty");
  }

  /** A message of nodes/retiming/live.py. */
  live({ event, sigmas, label, step, t_star, deviation, proposed, notes }) {
    if (event === "begin") this.run = { sigmas, label, t_star: [], deviation: [], proposed: [] };
    else if (!this.run) return; // the page was opened in the middle of a run
    else if (event === "step") {
      this.catchUp(step);
      this.run.t_star[step] = t_star;
      this.run.deviation[step] = deviation;
      this.run.proposed[step] = proposed;
    }
    if (event === "end") this.run.notes = notes ?? [];
    this.show(event === "end" ? "done" : "running");
  }

  /** A run that is over: {sigmas, label, notes, t_star, deviation, proposed}. */
  recall(run) {
    if (this.state === "running") return;
    this.run = run;
    this.show("done");
  }

  /** Steps that a sampler left out were not asked about: t* is σ there. */
  catchUp(step) {
    const { sigmas, t_star, deviation, proposed } = this.run;
    while (t_star.length < step) {
      t_star.push([sigmas[t_star.length]]);
      deviation.push([0]);
      proposed.push([0]);
    }
  }

  get state() {
    return this.element.dataset.state;
  }

  show(state) {
    this.element.dataset.state = state;
    const { plan, run } = this;
    const shown = run ?? plan;
    this.element.dataset.steps = shown ? shown.t_star.length : 0;
    if (!shown) return;
    const intervals = shown.sigmas.length - 1;
    const at = (step, value) => `${(step / intervals).toFixed(4)} ${(1 - value).toFixed(4)}`;
    this.draw("sigma", polyline(shown.sigmas, at));
    this.draw("plan", this.planPath(at));
    const several = shown.t_star.some((values) => values.length > 1);
    const means = run || !several ? shown.t_star.map(mean) : []; // several foreseen curves have no middle one
    this.draw("line", run ? polyline(means, at) : "");
    this.draw("dots", dots(means, at));
    this.draw("gap", several ? "" : area(means, shown.sigmas.slice(0, means.length), at));
    this.draw("band", run && several ? spread(run.t_star, at) : "");
    const lane = (column) => (means.length ? column.map(mean) : []);
    this.drawLane(lane(shown.deviation), lane(shown.proposed), intervals);
    this.text("label", [shown.label, ...(shown.notes ?? [])].filter(Boolean).join(" · "));
  }

  /** All of the foreseen curve before a run, what is left of it during one; nothing where the run's grid differs. */
  planPath(at) {
    const { plan, run } = this;
    if (!plan || (run && !sameGrid(plan.sigmas, run.sigmas))) return "";
    const from = run ? Math.max(0, run.t_star.length - 1) : 0;
    const lines = plan.t_star[0].map((_, sample) => plan.t_star.map((values) => values[sample]));
    return lines.map((line) => polyline(line.slice(from), (step, value) => at(step + from, value))).join("");
  }

  /**
   * A bar of D as applied for each step, up where t* is ahead of σ; the lane holds half a step, or the largest D beyond
   * it. Where a clamp cut D off, a dashed line goes on to the D that was proposed.
   */
  drawLane(deviations, proposed, intervals) {
    this.element.dataset.lane = deviations.length ? "bars" : "empty";
    const most = Math.max(USUAL_BOUND, ...deviations.map(Math.abs), ...proposed.map(Math.abs));
    const below = [...deviations, ...proposed].some((value) => value < 0) ? 1 : 0;
    this.element.querySelector(".lane").setAttribute("viewBox", `0 -1 1 ${1 + below}`);
    const line = (step, from, to) => `M${(step / intervals).toFixed(4)} ${(-from / most).toFixed(4)}V${(-to / most).toFixed(4)}`;
    const lines = (froms, tos) => tos.map((to, step) => (to === froms[step] ? "" : line(step, froms[step], to))).join("");
    this.draw("bars", lines(deviations.map(() => 0), deviations));
    this.draw("cut", lines(deviations, proposed));
  }

  draw(name, path) {
    this.element.querySelector(`path.${name}`).setAttribute("d", path);
  }

  text(name, text) {
    this.element.querySelector(`.${name}`).textContent = text;
  }
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function polyline(values, at) {
  return values.length > 1 ? `M${values.map((value, step) => at(step, value)).join("L")}` : "";
}

function dots(values, at) {
  return values.length > MOST_DOTS ? "" : values.map((value, step) => `M${at(step, value)}h0`).join("");
}

/** What lies between two lines. */
function area(upper, lower, at) {
  const back = lower.map((value, step) => at(step, value)).reverse();
  return upper.length > 1 ? `${polyline(upper, at)}L${back.join("L")}Z` : "";
}

function spread(decided, at) {
  return area(decided.map((values) => Math.max(...values)), decided.map((values) => Math.min(...values)), at);
}

function sameGrid(left, right) {
  return left.length === right.length && left.every((sigma, step) => Math.abs(sigma - right[step]) < SAME_GRID);
}
