// Dialogs: the browser's own element, which keeps the focus inside and gives it back.

import { html, signal, useLayoutEffect, useRef, useState } from '../app/view.js';

/**
 * A dialog that is open while it is rendered.
 * @param {{title: any, onClose: () => void, children?: any, foot?: any, side?: boolean, actions?: any}} props
 */
export function Dialog({ title, onClose, children, foot, side = false, actions }) {
  /** @type {{current: any}} */
  const element = useRef(null);
  useLayoutEffect(() => {
    const dialog = element.current;
    dialog.showModal();
    return () => dialog.open && dialog.close();
  }, []);
  const onCancel = (/** @type {Event} */ event) => {
    event.preventDefault();
    onClose();
  };
  return html`<dialog ref=${element} class=${side ? 'is-side' : ''} onCancel=${onCancel} aria-label=${typeof title === 'string' ? title : undefined}>
    <div class="dialog-box">
      <div class="dialog-head"><h2>${title}</h2>${actions}<button class="button is-quiet" onClick=${onClose} aria-label="Close">✕</button></div>
      <div class="dialog-body">${children}</div>
      ${foot && html`<div class="dialog-foot">${foot}</div>`}
    </div>
  </dialog>`;
}

/** @typedef {{title: string, text: any, action: string, name?: string, danger?: boolean, resolve: (is: boolean) => void}} Question */

/** @type {{value: Question | null}} */
const question = signal(null);

/**
 * Asks before something happens. With a `name`, the reader has to type it.
 * @param {Omit<Question, 'resolve'>} options
 * @returns {Promise<boolean>}
 */
export function confirm(options) {
  return new Promise((resolve) => {
    question.value = { ...options, resolve };
  });
}

export function Confirmation() {
  const asked = question.value;
  return asked && html`<${Asked} key=${asked.title} asked=${asked} />`;
}

/** @param {{asked: Question}} props */
function Asked({ asked }) {
  const [typed, setTyped] = useState('');
  const end = (/** @type {boolean} */ is) => {
    question.value = null;
    asked.resolve(is);
  };
  const isAllowed = !asked.name || typed === asked.name;
  const foot = html`
    <button class="button" onClick=${() => end(false)}>Cancel</button>
    <button class=${`button is-main ${asked.danger === false ? '' : 'is-danger'}`} disabled=${!isAllowed} onClick=${() => end(true)}>${asked.action}</button>`;
  return html`<${Dialog} title=${asked.title} onClose=${() => end(false)} foot=${foot}>
    <div>${asked.text}</div>
    ${asked.name && html`<label class="stack"><span>Type <strong>${asked.name}</strong> to confirm.</span>
      <input type="text" value=${typed} onInput=${(/** @type {any} */ event) => setTyped(event.target.value)} autocomplete="off" /></label>`}
  </${Dialog}>`;
}
