// The start of the dashboard: who is here, and which screen do they see.

import { Head } from '../parts/small.js';
import { SignIn } from '../screens/sign-in.js';
import { SCREENS } from '../screens/index.js';
import { Loaded, useLoad } from './load.js';
import { place } from './router.js';
import { loadServer } from './server.js';
import { admin } from './session.js';
import { Shell } from './shell.js';
import './theme.js';
import { html, render, useEffect } from './view.js';

/** The screen of the address, loaded when it is first needed. */
function Screen() {
  const { path } = place.value;
  const name = path[0] ?? '';
  const load = useLoad(async () => ({ Part: await SCREENS[name]?.() }), [name]);
  useEffect(() => {
    document.title = [...path].reverse().concat('vski').join(' · ');
  }, [path.join('/')]);
  if (!SCREENS[name]) return html`<${Head} title="There is no such screen." /><p>The address may come from another version of the dashboard.</p>`;
  return html`<${Loaded} load=${load}>${(/** @type {any} */ { Part }) => html`<${Part} key=${path.join('/')} path=${path.slice(1)} />`}</${Loaded}>`;
}

function SignedIn() {
  const load = useLoad(async () => {
    await loadServer();
    return true;
  }, []);
  return html`<${Shell}><${Loaded} load=${load}>${() => html`<${Screen} />`}</${Loaded}></${Shell}>`;
}

function App() {
  return admin.value ? html`<${SignedIn} />` : html`<${SignIn} />`;
}

const root = /** @type {HTMLElement} */ (document.getElementById('app'));
root.replaceChildren();
render(html`<${App} />`, root);
