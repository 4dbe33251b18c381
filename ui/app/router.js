// Addresses: the path below /_/ names the screen, the query its state. Every state that a person can want to return to,
// or to send to a colleague, is in the address.

import { html, signal } from './view.js';

const BASE = '/_/';

/** @typedef {{path: string[], query: URLSearchParams}} Place */

/** @returns {Place} */
function read() {
  const { pathname, search } = location;
  const rest = pathname.startsWith(BASE) ? pathname.slice(BASE.length) : '';
  const path = rest.split('/').filter((part) => part !== '');
  return { path: path.map((part) => decodeURIComponent(part)), query: new URLSearchParams(search) };
}

/** Where the reader is. */
export const place = signal(read());

addEventListener('popstate', () => {
  place.value = read();
});

/**
 * The address of a screen.
 * @param {string[]} path
 * @param {Record<string, string | number | null | undefined>} [query] empty values are left out
 */
export function address(path, query = {}) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== '') parameters.set(name, String(value));
  }
  const text = parameters.toString();
  return BASE + path.map((part) => encodeURIComponent(part)).join('/') + (text && `?${text}`);
}

/** @param {string} href @param {{replace?: boolean}} [options] */
export function go(href, { replace = false } = {}) {
  history[replace ? 'replaceState' : 'pushState'](null, '', href);
  place.value = read();
  if (!replace) scrollTo(0, 0);
}

/** Changes parts of the query and stays on the screen. @param {Record<string, string | number | null | undefined>} changes @param {{replace?: boolean}} [options] */
export function setQuery(changes, options) {
  const { path, query } = place.value;
  go(address(path, { ...Object.fromEntries(query), ...changes }), options);
}

/**
 * A link to another screen, which does not load the page again.
 * @param {{href: string, children?: any, [name: string]: any}} props
 */
export function Link({ href, children, ...rest }) {
  const onClick = (/** @type {MouseEvent} */ event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    go(href);
  };
  return html`<a href=${href} onClick=${onClick} ...${rest}>${children}</a>`;
}
