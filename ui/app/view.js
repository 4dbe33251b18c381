// The library of views in one place: Preact with htm and signals.

import { h, render, Fragment } from '../vendor/preact.js';
import { useEffect, useId, useLayoutEffect, useMemo, useRef, useState } from '../vendor/hooks.js';
import htm from '../vendor/htm.js';
import { batch, computed, effect, signal, useSignal } from '../vendor/signals.js';

/** A tagged template that makes elements. Values are text or elements, never markup. */
export const html = htm.bind(h);

export { Fragment, batch, computed, effect, render, signal, useEffect, useId, useLayoutEffect, useMemo, useRef, useSignal, useState };
