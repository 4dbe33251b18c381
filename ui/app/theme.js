// Light or dark: as the system has it, or as the reader has chosen.

import { signal } from './view.js';

const KEY = 'vski-theme';
const system = matchMedia('(prefers-color-scheme: dark)');

/** @type {{value: 'light' | 'dark' | 'system'}} */
export const theme = signal(/** @type {any} */ (localStorage.getItem(KEY)) ?? 'system');

function apply() {
  const isDark = theme.value === 'dark' || (theme.value === 'system' && system.matches);
  document.documentElement.dataset.theme = isDark ? 'dark' : 'light';
}

/** @param {'light' | 'dark' | 'system'} name */
export function setTheme(name) {
  theme.value = name;
  if (name === 'system') localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, name);
  apply();
}

system.addEventListener('change', apply);
apply();
