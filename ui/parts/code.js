// Text that can be copied: JSON, commands, keys.

import { html, useState } from '../app/view.js';

/** @param {{text: string, label?: string}} props */
export function Code({ text, label = 'Code' }) {
  const [isCopied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return html`<div class="code-box"><pre class="code" tabindex="0" role="region" aria-label=${label}>${text}</pre>
    ${navigator.clipboard && html`<button class="button" onClick=${copy}>${isCopied ? 'Copied' : 'Copy'}</button>`}</div>`;
}

/** @param {{value: any, label?: string}} props */
export function Json({ value, label = 'JSON' }) {
  return html`<${Code} text=${JSON.stringify(value, null, 2) ?? 'none'} label=${label} />`;
}
