// Signing in, and making the first admin of a new server.

import { Problem } from '../app/load.js';
import { makeFirstAdmin, signIn } from '../app/session.js';
import { html, useState } from '../app/view.js';
import { Check, Field } from '../parts/field.js';

export function SignIn() {
  const [isFirst, setFirst] = useState(false);
  const [values, setValues] = useState({ email: '', password: '', token: '', keep: false });
  const [error, setError] = useState(/** @type {any} */ (undefined));
  const [isBusy, setBusy] = useState(false);
  const set = (/** @type {string} */ name) => (/** @type {any} */ value) => setValues({ ...values, [name]: value });
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setBusy(true);
    setError(undefined);
    const { email, password, token, keep } = values;
    try {
      if (isFirst) await makeFirstAdmin({ email, password, token: token || undefined });
      else await signIn(email, password, keep);
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return html`<main class="center"><form class="card stack" onSubmit=${submit}>
    <h1>${isFirst ? 'Make the first admin' : 'Sign in to vski'}</h1>
    ${isFirst && html`<p class="soft">A new server has no admin. The log of the server has its setup token; on the machine itself none is needed.</p>`}
    <${Field} label="E-mail address" type="email" value=${values.email} onInput=${set('email')} autocomplete="username" required problem=${error?.fields?.email} />
    <${Field} label="Password" type="password" value=${values.password} onInput=${set('password')} required
      autocomplete=${isFirst ? 'new-password' : 'current-password'} problem=${error?.fields?.password} hint=${isFirst && 'At least 8 characters.'} />
    ${isFirst
      ? html`<${Field} label="Setup token" value=${values.token} onInput=${set('token')} autocomplete="off" mono />`
      : html`<${Check} label="Keep me signed in on this browser" value=${values.keep} onInput=${set('keep')} />`}
    <${Problem} error=${error} />
    <button class="button is-main" disabled=${isBusy}>${isFirst ? 'Make the admin' : 'Sign in'}</button>
    <button type="button" class="button is-quiet" onClick=${() => { setFirst(!isFirst); setError(undefined); }}>
      ${isFirst ? 'I have an account' : 'This server is new'}</button>
  </form></main>`;
}
