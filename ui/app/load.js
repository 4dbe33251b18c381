// Loading: one way for all screens to wait for the server, to say what went wrong, and to stop asking when they go.

import { html, useEffect, useRef, useState } from './view.js';

/**
 * @template T
 * @typedef {{data: T | undefined, error: Error | undefined, isLoading: boolean, reload: () => void}} Load
 */

/** Times `everyMs` after which a refresh that finds nothing new, or an error, comes at the latest. */
const SLOWEST = 8;

/**
 * Calls `fetch` when one of `inputs` changes, and again every `everyMs` while the page is visible; less often while nothing
 * changes or the server does not answer, and at once when the page is shown again. The last data stays while new data is on
 * its way, and stays the same object if it is equal.
 * @template T
 * @param {(signal: AbortSignal) => Promise<T>} fetch
 * @param {unknown[]} inputs
 * @param {{everyMs?: number}} [options]
 * @returns {Load<T>}
 */
export function useLoad(fetch, inputs, { everyMs } = {}) {
  const [state, setState] = useState(/** @type {any} */ ({ data: undefined, error: undefined, isLoading: true }));
  const [turn, setTurn] = useState(0);
  const latest = useRef(fetch);
  latest.current = fetch;
  const last = useRef({ key: '', text: '', pauseMs: 0 });
  useEffect(() => {
    const abort = new AbortController();
    const key = JSON.stringify(inputs);
    const isOther = last.current.key !== key;
    if (isOther) last.current = { key, text: '', pauseMs: everyMs ?? 0 };
    setState((/** @type {any} */ old) => ({ ...old, data: isOther ? undefined : old.data, isLoading: true }));
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const again = () => !document.hidden && setTurn((value) => value + 1);
    const pause = (/** @type {boolean} */ isNews) => {
      if (!everyMs || abort.signal.aborted) return;
      last.current.pauseMs = isNews ? everyMs : Math.min(Math.max(last.current.pauseMs, everyMs) * 1.5, everyMs * SLOWEST);
      timer = setTimeout(again, last.current.pauseMs);
    };
    latest.current(abort.signal).then((data) => {
      if (abort.signal.aborted) return;
      const text = everyMs ? JSON.stringify(data) : '';
      const isNews = !everyMs || text !== last.current.text;
      last.current.text = text;
      setState((/** @type {any} */ old) => ({ data: isNews ? data : old.data, error: undefined, isLoading: false }));
      pause(isNews);
    }, (error) => {
      if (abort.signal.aborted) return;
      setState((/** @type {any} */ old) => ({ ...old, error, isLoading: false }));
      pause(false);
    });
    const onShown = () => everyMs && again();
    document.addEventListener('visibilitychange', onShown);
    return () => {
      abort.abort();
      clearTimeout(timer);
      document.removeEventListener('visibilitychange', onShown);
    };
  }, [...inputs, turn, everyMs]);
  return { ...state, reload: () => setTurn((value) => value + 1) };
}

/**
 * Shows an error in the server's words, with the id under which its log has the request.
 * @param {{error: any, retry?: () => void}} props
 */
export function Problem({ error, retry }) {
  if (!error) return null;
  return html`<div class="notice is-bad stack" role="alert">
    <div>${error.message}</div>
    ${Object.entries(error.fields ?? {}).map(([name, field]) => html`<div class="small"><code>${name}</code>: ${field.message}</div>`)}
    ${error.requestId && error.status >= 500 && html`<div class="small soft">Request <code>${error.requestId}</code> in the log of the server.</div>`}
    ${retry && html`<div><button class="button" onClick=${retry}>Try again</button></div>`}
  </div>`;
}

/**
 * The parts of a screen that need loaded data.
 * @param {{load: Load<any>, children: (data: any) => any}} props
 */
export function Loaded({ load, children }) {
  if (load.data === undefined) {
    return load.error ? html`<${Problem} error=${load.error} retry=${load.reload} />` : html`<p class="soft" role="status">Loading...</p>`;
  }
  return html`<div class="stack is-wide"><${Problem} error=${load.error} retry=${load.reload} />${children(load.data)}</div>`;
}
