// The frame around every screen: navigation, database, palette, messages.

import { Confirmation } from '../parts/dialog.js';
import { Toasts } from '../parts/toast.js';
import { Palette, openPalette } from './palette.js';
import { Link, address, go, place } from './router.js';
import { collections, databases, isReadOnly, loadCollections, node } from './server.js';
import { admin, choose, database, signOut } from './session.js';
import { setTheme, theme } from './theme.js';
import { html, signal, useEffect } from './view.js';

const isMenuOpen = signal(false);

/** The screens in the navigation: label, path. @type {[string, [string, string[]][]][]} */
const SECTIONS = [
  ['', [['Home', []]]],
  ['Data', [['Collections', ['collections']], ['Databases', ['databases']], ['SQL', ['sql']], ['Files', ['files']]]],
  ['Work', [['Workflows', ['workflows']], ['Jobs', ['jobs']], ['Webhooks', ['webhooks']]]],
  ['Server', [['Replication', ['replication']], ['Requests and logs', ['requests']], ['Backups', ['backups']], ['Admins and keys', ['access']], ['Settings', ['settings']]]],
];

/** @param {{path: string[], label: string}} props */
function Item({ path, label }) {
  const current = place.value.path;
  const isCurrent = path.length === 0 ? current.length === 0 : path.every((part, index) => current[index] === part) && current[0] !== 'records';
  return html`<li><${Link} class="item" href=${address(path)} aria-current=${isCurrent ? 'page' : undefined}><span>${label}</span></${Link}></li>`;
}

function Records() {
  const shown = collections.value.filter(({ name }) => !name.startsWith('_') || name === '_users');
  if (shown.length === 0) return null;
  return html`<div class="records"><h2>Records</h2><ul>${shown.map(({ name }) => {
    const { path } = place.value;
    const isCurrent = path[0] === 'records' && path[1] === name;
    return html`<li key=${name}><${Link} class="item" href=${address(['records', name])} aria-current=${isCurrent ? 'page' : undefined}><span>${name}</span></${Link}></li>`;
  })}</ul></div>`;
}

function Navigation() {
  const chooseDatabase = async (/** @type {any} */ event) => {
    choose(event.target.value);
    await loadCollections();
    go(address([]));
  };
  const chooseTheme = (/** @type {any} */ event) => setTheme(event.target.value);
  return html`<nav class=${`nav ${isMenuOpen.value ? 'is-open' : ''}`} aria-label="Main" id="nav">
    <${Link} class="brand" href=${address([])}><img src=${new URL('../style/icon.svg', import.meta.url).href} alt="" />vski</${Link}>
    ${databases.value.length > 1 && html`<label class="field"><span class="label">Database</span>
      <select onChange=${chooseDatabase}>${databases.value.map(({ name }) => html`<option value=${name} selected=${name === database.value}>${name}</option>`)}</select></label>`}
    ${SECTIONS.map(([title, items]) => html`<div key=${title}>${title && html`<h2>${title}</h2>`}<ul>${items.map(([label, path]) => html`<${Item} path=${path} label=${label} />`)}</ul></div>${title === '' && html`<${Records} />`}`)}
    <div class="foot">
      <div class="small soft">${admin.value?.email}</div>
      <label class="visually-hidden" for="theme">Theme</label>
      <select id="theme" onChange=${chooseTheme}>${['system', 'light', 'dark'].map((name) => html`<option value=${name} selected=${name === theme.value}>${name === 'system' ? 'As the system' : name === 'light' ? 'Light' : 'Dark'}</option>`)}</select>
      <button class="button" onClick=${signOut}>Sign out</button>
    </div>
  </nav>`;
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  const isTyping = target.matches('input, textarea, select, [contenteditable]');
  if ((event.ctrlKey || event.metaKey) && event.key === 'k') {
    event.preventDefault();
    openPalette();
  } else if (event.key === '/' && !isTyping) {
    const search = /** @type {HTMLInputElement | null} */ (document.querySelector('main input[type="search"]'));
    if (search) {
      event.preventDefault();
      search.focus();
    }
  } else if (event.key === 'Escape') isMenuOpen.value = false;
}

/** @param {{children?: any}} props */
export function Shell({ children }) {
  useEffect(() => {
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, []);
  const path = place.value.path.join('/');
  useEffect(() => {
    isMenuOpen.value = false;
  }, [path]);
  return html`<div class="frame">
    <a class="skip" href="#content">Skip to the content</a>
    <${Navigation} />
    <div class="main">
      <div class="bar">
        <button class="button menu-button" aria-expanded=${String(isMenuOpen.value)} aria-controls="nav" onClick=${() => { isMenuOpen.value = !isMenuOpen.value; }}>Menu</button>
        <div class="grow">${isReadOnly() && html`<span class="badge is-warn">Replica of ${node.value?.master}: read only</span>`}</div>
        <button class="button" onClick=${openPalette} aria-keyshortcuts="Control+K">Go to... <span class="soft small">Ctrl K</span></button>
      </div>
      <main class="content" id="content" tabindex="-1">${children}</main>
    </div>
    <${Palette} sections=${SECTIONS} />
    <${Confirmation} />
    <${Toasts} />
  </div>`;
}
