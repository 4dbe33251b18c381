// Loading: one way for all screens to wait for the server, to say what went wrong, and to stop asking when they go.

import { html, useEffect, useRef, useState } from './view.js';

/**
 * @template T
 * @typedef {{data: T | undefined, error: Error | undefined, isLoading: boolean, reload: () => void}} Load
 */

/**
 * Calls `fetch` when one of `inputs` changes, and again every `everyMs` while the page is visible. The last data stays while
 * new data is on its way.
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
  const key = useRef('');
  useEffect(() => {
    const abort = new AbortController();
    const isOther = key.current !== JSON.stringify(inputs);
    key.current = JSON.stringify(inputs);
    setState((/** @type {any} */ old) => ({ ...old, data: isOther ? undefined : old.data, isLoading: true }));
    latest.current(abort.signal).then(
      (data) => !abort.signal.aborted && setState({ data, error: undefined, isLoading: false }),
      (error) => !abort.signal.aborted && setState((/** @type {any} */ old) => ({ ...old, error, isLoading: false })),
    );
    return () => abort.abort();
  }, [...inputs, turn]);
  useEffect(() => {
    if (!everyMs) return undefined;
    const timer = setInterval(() => document.hidden || setTurn((value) => value + 1), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
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
