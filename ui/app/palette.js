// The palette: type a few letters of a screen or a collection and press Enter.

import { Dialog } from '../parts/dialog.js';
import { address, go } from './router.js';
import { collections } from './server.js';
import { html, signal, useRef, useState } from './view.js';

const isOpen = signal(false);
const MOST = 30;

export const openPalette = () => {
  isOpen.value = true;
};

/** What can be begun from everywhere. @type {[string, string[], Record<string, number>][]} */
const ACTIONS = [
  ['New collection', ['collections'], { new: 1 }], ['Import definitions', ['collections'], { import: 1 }], ['Export definitions', ['collections'], {}], ['New database', ['databases'], { new: 1 }], ['Start a run', ['workflows'], { start: 1 }],
  ['New admin', ['access', 'admins'], { new: 1 }], ['New API key', ['access', 'keys'], { new: 1 }], ['New backup', ['backups'], { new: 1 }], ['Logs', ['requests', 'log'], {}], ['Test mail', ['settings', 'mail'], {}],
];

/** True if the letters of `wanted` occur in `text` in their order. @param {string} text @param {string} wanted */
function matches(text, wanted) {
  let at = 0;
  for (const letter of wanted.toLowerCase()) {
    at = text.toLowerCase().indexOf(letter, at) + 1;
    if (at === 0) return false;
  }
  return true;
}

/** What begins with the text comes first, then what has it in one piece. @param {string} text @param {string} wanted */
function rank(text, wanted) {
  const at = text.toLowerCase().indexOf(wanted.toLowerCase());
  return at === 0 ? 0 : at > 0 ? 1 : 2;
}

/** @param {{sections: [string, [string, string[]][]][]}} props */
export function Palette({ sections }) {
  return isOpen.value && html`<${Open} sections=${sections} />`;
}

/** @param {{sections: [string, [string, string[]][]][]}} props */
function Open({ sections }) {
  const [text, setText] = useState('');
  const [at, setAt] = useState(0);
  const list = useRef(/** @type {any} */ (null));
  const screens = sections.flatMap(([, items]) => items.map(([label, path]) => ({ label, note: 'Screen', path })));
  const records = collections.value.map(({ name }) => ({ label: name, note: 'Records', path: ['records', name] }));
  const definitions = collections.value.map(({ name }) => ({ label: `${name}: definition`, note: 'Collection', path: ['collections', name] }));
  const actions = ACTIONS.map(([label, path, query]) => ({ label, note: 'Action', path, query }));
  const found = [...screens, ...records, ...definitions, ...actions].filter(({ label }) => matches(label, text)).sort((a, b) => rank(a.label, text) - rank(b.label, text)).slice(0, MOST);
  const close = () => {
    isOpen.value = false;
  };
  const open = (/** @type {any} */ item) => {
    close();
    if (item) go(address(item.path, item.query));
  };
  const onKeyDown = (/** @type {KeyboardEvent} */ event) => {
    const step = event.key === 'ArrowDown' ? 1 : event.key === 'ArrowUp' ? -1 : 0;
    if (step) {
      event.preventDefault();
      const next = Math.max(0, Math.min(found.length - 1, at + step));
      setAt(next);
      list.current?.children[next]?.scrollIntoView({ block: 'nearest' });
    } else if (event.key === 'Enter') {
      event.preventDefault();
      open(found[at]);
    }
  };
  return html`<${Dialog} title="Go to" onClose=${close}>
    <div class="palette">
      <input type="text" value=${text} placeholder="A screen or a collection" aria-label="Go to" role="combobox" aria-expanded="true" aria-controls="palette-list"
        aria-activedescendant=${found.length > 0 ? `palette-${at}` : undefined}
        onInput=${(/** @type {any} */ event) => { setText(event.target.value); setAt(0); }} onKeyDown=${onKeyDown} autofocus />
      <ul ref=${list} id="palette-list" role="listbox" aria-label="Matches">${found.map((item, index) => html`<li key=${item.note + item.label} id=${`palette-${index}`} role="option"
        aria-selected=${String(index === at)} onClick=${() => open(item)}><span>${item.label}</span><span class="soft small">${item.note}</span></li>`)}</ul>
      ${found.length === 0 && html`<p class="soft">Nothing has these letters.</p>`}
    </div>
  </${Dialog}>`;
}
