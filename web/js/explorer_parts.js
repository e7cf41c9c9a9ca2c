/** How the strip of γ looks: its parts, and a style that holds for these parts only. */

const STYLE = `
.asyncdiff-explorer {
  --accent: var(--p-primary-color, #60a5fa); --line: var(--border-color, #4e4e4e); --quiet: var(--descrip-text, #999);
  position: relative; box-sizing: border-box; width: 100%; height: 100%; overflow: hidden; padding: 6px;
  display: flex; flex-direction: column; gap: 5px; pointer-events: auto; user-select: none;
  font: 11px/1.25 Inter, Arial, sans-serif; color: var(--input-text, #ddd);
  background: color-mix(in srgb, var(--comfy-input-bg, #222) 45%, transparent);
  border: 1px solid var(--line); border-radius: 6px;
}
.asyncdiff-explorer [hidden] { display: none !important; }
.asyncdiff-explorer .frame {
  position: relative; flex: 1 1 0; min-height: 120px; overflow: hidden; border-radius: 4px; --wipe: .5;
  background: var(--comfy-input-bg, #222); touch-action: pan-y;
}
.asyncdiff-explorer[data-wipe=on] .frame { cursor: ew-resize; touch-action: none; }
.asyncdiff-explorer .frame img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.asyncdiff-explorer .reference { clip-path: inset(0 calc(100% - var(--wipe) * 100%) 0 0); background: var(--comfy-input-bg, #222); }
.asyncdiff-explorer:not([data-wipe=on]) .reference,
.asyncdiff-explorer:not([data-wipe=on]) .handle,
.asyncdiff-explorer:not([data-wipe=on]) .left { display: none; }
.asyncdiff-explorer .handle {
  position: absolute; top: 0; bottom: 0; left: calc(var(--wipe) * 100%); width: 2px; margin-left: -1px; background: #fff;
  box-shadow: 0 0 3px #000;
}
.asyncdiff-explorer .handle::after {
  content: "◂▸"; position: absolute; top: 50%; left: 50%; transform: translate(-50%, -50%); padding: 5px 4px;
  font-size: 10px; line-height: 1; letter-spacing: 1px; color: #111; background: #fff; border-radius: 9px;
}
.asyncdiff-explorer .left, .asyncdiff-explorer .right, .asyncdiff-explorer .readout {
  position: absolute; padding: 2px 6px; border-radius: 4px; color: #fff; background: rgb(0 0 0 / .62); max-width: 48%;
}
.asyncdiff-explorer .left:empty,
.asyncdiff-explorer .right:empty,
.asyncdiff-explorer .readout:empty { display: none; }
.asyncdiff-explorer .left { left: 6px; top: 6px; }
.asyncdiff-explorer .right { right: 6px; top: 6px; }
.asyncdiff-explorer:not([data-wipe=on]) .right { max-width: calc(100% - 12px); }
.asyncdiff-explorer .readout { left: 50%; bottom: 6px; transform: translateX(-50%); max-width: 90%; white-space: nowrap; }
.asyncdiff-explorer .slider { position: relative; flex: none; height: 22px; }
.asyncdiff-explorer .scrub {
  position: absolute; inset: 0; width: 100%; height: 22px; margin: 0; accent-color: var(--accent); cursor: pointer;
  touch-action: none;
}
.asyncdiff-explorer .ticks { position: absolute; left: 8px; right: 8px; bottom: 0; height: 4px; pointer-events: none; }
.asyncdiff-explorer .ticks i { position: absolute; width: 2px; margin-left: -1px; height: 4px; background: var(--quiet); }
.asyncdiff-explorer .strip {
  flex: none; display: grid; gap: 4px; max-height: 40%; overflow-y: auto; align-items: center; scrollbar-width: thin;
  grid-template-columns: repeat(var(--columns, 1), minmax(0, 110px)); justify-content: center;
}
.asyncdiff-explorer .strip[data-rows=several] { grid-template-columns: minmax(0, 52px) repeat(var(--columns, 1), minmax(0, 110px)); }
.asyncdiff-explorer .strip[data-rows=several] .thumb { height: 44px; }
.asyncdiff-explorer .strip > span { color: var(--quiet); overflow-wrap: anywhere; }
.asyncdiff-explorer .thumb {
  position: relative; height: 60px; min-width: 0; padding: 0; overflow: hidden; cursor: pointer; border-radius: 4px;
  border: 1px solid var(--line); background: var(--comfy-input-bg, #222); color: inherit; font: inherit;
}
.asyncdiff-explorer .thumb img { width: 100%; height: 100%; object-fit: cover; display: block; }
.asyncdiff-explorer .thumb b {
  position: absolute; left: 2px; bottom: 2px; padding: 0 4px; border-radius: 3px; font-weight: 500; color: #fff;
  background: rgb(0 0 0 / .62);
}
.asyncdiff-explorer .thumb:not(.there) { border-style: dashed; opacity: .7; }
.asyncdiff-explorer .thumb[aria-pressed=true] { outline: 2px solid var(--accent); outline-offset: -1px; }
.asyncdiff-explorer[data-wipe=on] .thumb.pinned::after {
  content: ""; position: absolute; right: 3px; top: 3px; width: 7px; height: 7px; border-radius: 50%;
  background: #fff; box-shadow: 0 0 2px #000;
}
.asyncdiff-explorer .bar { flex: none; display: flex; flex-wrap: wrap; gap: 4px; }
.asyncdiff-explorer .bar button {
  min-height: 24px; padding: 2px 8px; cursor: pointer; border-radius: 4px; border: 1px solid var(--line); font: inherit;
  color: inherit; background: var(--comfy-input-bg, #222);
}
.asyncdiff-explorer .bar button:hover:not(:disabled) { border-color: var(--accent); }
.asyncdiff-explorer .bar button[aria-pressed=true] { background: var(--accent); color: #111; border-color: var(--accent); }
.asyncdiff-explorer .bar button:disabled { opacity: .45; cursor: default; }
.asyncdiff-explorer .bar .waits { border-style: dashed; border-color: var(--accent); }
.asyncdiff-explorer .bar .gap { flex: 1; }
.asyncdiff-explorer button:focus-visible,
.asyncdiff-explorer .scrub:focus-visible,
.asyncdiff-explorer .handle:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
.asyncdiff-explorer .hint {
  position: absolute; inset: 0; display: flex; align-items: center; justify-content: center; text-align: center;
  padding: 0 24px; color: var(--quiet);
}
.asyncdiff-explorer[data-state=empty] > :not(.hint) { visibility: hidden; }
.asyncdiff-explorer:not([data-state=empty]) .hint { display: none; }
`;

export const MARKUP = `
<style>${STYLE}</style>
<div class="frame">
  <img class="picture" alt="" draggable="false" hidden><img class="reference" alt="" draggable="false" hidden>
  <span class="handle" role="slider" tabindex="0" aria-label="wipe" aria-valuemin="0" aria-valuemax="100"></span>
  <span class="left"></span><span class="right"></span><span class="readout"></span>
</div>
<div class="slider"><input class="scrub" type="range" aria-label="strength (γ)"><div class="ticks"></div></div>
<div class="strip"></div>
<div class="bar">
  <button type="button" class="wipe" title="Drag across the picture: the pinned one on the left, this one on the right">wipe</button>
  <button type="button" class="pin" title="Wipe against this one instead of strength 0">pin</button>
  <button type="button" class="next" title="The next image of the batch, or the next frame"></button>
  <span class="gap"></span>
  <button type="button" class="denser" title="Add the strength (γ) halfway to its neighbour, and run this node. The seed is fixed.">denser here</button>
  <button type="button" class="use" title="Write this strength (γ) into a node of the graph">use ▾</button>
</div>
<div class="hint">Run once: every strength (γ) appears here. Then drag the slider, or use the arrow keys.</div>`;
