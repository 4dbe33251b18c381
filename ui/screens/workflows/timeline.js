// The steps of a run on a common axis of time. Only the rows in view are in the page, so that 5,000 steps are no burden.

import { dateTime, duration } from '../../app/format.js';
import { Link, address } from '../../app/router.js';
import { html, useMemo, useState } from '../../app/view.js';
import { Json } from '../../parts/code.js';
import { Dialog } from '../../parts/dialog.js';
import { Badge, Empty, Facts } from '../../parts/small.js';

const ROW_PX = 26;
const VIEW_PX = 560;
const MARGIN_ROWS = 10;
const SHOWN_ROWS = Math.ceil(VIEW_PX / ROW_PX) + 3 * MARGIN_ROWS;
const KINDS = { completed: 'is-good', failed: 'is-bad', retrying: 'is-wait', waiting: 'is-wait', sleeping: 'is-wait' };

const ms = (/** @type {string | null | undefined} */ text) => (text ? new Date(text).getTime() : undefined);

/** How long a step took; of one whose worker reported only its result, the time of that. @param {number} from @param {number} to @param {number} begin */
const tookOf = (from, to, begin) => (to > from ? duration(to - from) : `at ${duration(from - begin)}`);

/** The begin and end of each step, and the axis. @param {any} run @param {any[]} steps */
function spansOf(run, steps) {
  const begin = ms(run.createdAt) ?? 0;
  const times = steps.map((step) => ({ from: ms(step.startedAt) ?? begin, to: ms(step.completedAt) }));
  const end = times.reduce((most, { to }) => Math.max(most, to ?? 0), ms(run.completedAt) ?? Date.now());
  const hasEnded = (/** @type {any} */ step) => step.status === 'completed' || step.status === 'failed';
  const spans = times.map(({ from, to }, index) => ({ from, to: to ?? (hasEnded(steps[index]) ? from : end) }));
  return { spans, begin, width: Math.max(end - begin, 1) };
}

/** @param {{run: any, steps: any[], onFork: (step: any) => void}} props */
export function Timeline({ run, steps, onFork }) {
  const [first, setFirst] = useState(0);
  const [open, setOpen] = useState(/** @type {any} */ (null));
  const { spans, begin, width } = useMemo(() => spansOf(run, steps), [run, steps]);
  if (steps.length === 0) return html`<${Empty} title="No step has started."><p>${run.state === 'ready' ? 'The run waits for a worker that has this workflow.' : ''}</p></${Empty}>`;
  const shown = steps.slice(first, first + SHOWN_ROWS);
  // Rows are exchanged in groups, so that most scrolling draws nothing.
  const onScroll = (/** @type {number} */ top) => setFirst(Math.max(0, Math.floor(top / ROW_PX / MARGIN_ROWS) * MARGIN_ROWS - MARGIN_ROWS));
  const row = (/** @type {any} */ step, /** @type {number} */ index) => {
    const { from, to } = spans[first + index];
    const place = { left: `${((from - begin) / width) * 100}%`, width: `${Math.max(((to - from) / width) * 100, 0.2)}%` };
    return html`<button type="button" class="button is-quiet name" title=${step.name} onClick=${() => setOpen(step)}>${step.name}</button>
      <div class="track"><div class=${`span ${KINDS[/** @type {'failed'} */ (step.status)] ?? ''}`} style=${place}></div></div>
      <span class="small number soft">${step.attempt > 1 ? `${step.attempt} tries, ` : ''}${step.completedAt ? tookOf(from, to, begin) : step.status}</span>`;
  };
  return html`<div class="card"><${Scroll} onScroll=${onScroll} height=${Math.min(VIEW_PX, steps.length * ROW_PX)}>
      <${Space} height=${first * ROW_PX} />
      <div class="timeline">${shown.map(row)}</div>
      <${Space} height=${Math.max(0, steps.length - first - shown.length) * ROW_PX} /></${Scroll}>
      <div class="row small soft"><span>${dateTime(run.createdAt)}</span><span class="push"></span><span>${duration(width)}</span></div></div>
    ${open && html`<${Dialog} side title=${open.name} onClose=${() => setOpen(null)} foot=${html`<button class="button" onClick=${() => { setOpen(null); onFork(open); }}>New run from this step</button>`}>
      <${Facts} rows=${[['Status', html`<${Badge} state=${open.status} />`], ['Step', html`<code>${open.stepId}</code>`], ['Attempt', open.attempt], ['Started', dateTime(open.startedAt)], ['Completed', dateTime(open.completedAt)], ['Retry after', dateTime(open.retryAfter)],
        ['Child', open.childRunId && html`<${Link} href=${address(['workflows', 'runs', open.childRunId])}>${open.childRunId}</${Link}>`]]} />
      ${open.error && html`<h3>Error</h3><${Json} value=${open.error} label="Error" />`}
      ${open.output !== undefined && html`<h3>Output</h3><${Json} value=${open.output} label="Output" />`}</${Dialog}>`}`;
}

/** @param {any} props */
function Scroll({ height, onScroll, children }) {
  return html`<div class="scroll-y" style=${{ maxHeight: `${height + 8}px` }} tabindex="0" role="region" aria-label="Steps" onScroll=${(/** @type {any} */ event) => onScroll(event.currentTarget.scrollTop)}>${children}</div>`;
}

/** @param {{height: number}} props */
function Space({ height }) {
  return html`<div style=${{ height: `${height}px` }}></div>`;
}
