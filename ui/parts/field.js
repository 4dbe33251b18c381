// A labelled input with its hint and the server's complaint about it.

import { html, useId } from '../app/view.js';

/**
 * @param {{label: string, type?: string, value: any, onInput: (value: any) => void, hint?: any, problem?: {message: string},
 *   rows?: number, mono?: boolean, options?: (string | {value: string, label: string})[], [attribute: string]: any}} props
 */
export function Field({ label, type = 'text', value, onInput, hint, problem, rows, mono, options, ...rest }) {
  const id = useId();
  const about = { id, 'aria-invalid': problem ? 'true' : undefined, 'aria-describedby': problem ? `${id}-problem` : hint ? `${id}-hint` : undefined };
  const onChange = (/** @type {any} */ event) => onInput(event.target.value);
  const className = mono ? 'mono' : '';
  let input;
  if (options) {
    input = html`<select ...${about} onChange=${onChange} ...${rest}>${options.map((option) => {
      const { value: name, label: text } = typeof option === 'string' ? { value: option, label: option } : option;
      return html`<option value=${name} selected=${name === value}>${text}</option>`;
    })}</select>`;
  } else if (rows) {
    input = html`<textarea ...${about} class=${className} rows=${rows} value=${value ?? ''} onInput=${onChange} spellcheck=${!mono} ...${rest}></textarea>`;
  } else {
    input = html`<input ...${about} class=${className} type=${type} value=${value ?? ''} onInput=${onChange} ...${rest} />`;
  }
  return html`<div class="field"><label for=${id}>${label}</label>${input}
    ${problem && html`<div class="problem" id=${`${id}-problem`}>${problem.message}</div>`}
    ${hint && html`<div class="hint" id=${`${id}-hint`}>${hint}</div>`}</div>`;
}

/** @param {{label: any, value: boolean, onInput: (value: boolean) => void, [attribute: string]: any}} props */
export function Check({ label, value, onInput, ...rest }) {
  return html`<label class="check"><input type="checkbox" checked=${value} onChange=${(/** @type {any} */ event) => onInput(event.target.checked)} ...${rest} />
    <span>${label}</span></label>`;
}
