// A curve over time. The library draws on a canvas; colours come from the tokens.

import { html, useEffect, useRef } from '../app/view.js';

const HEIGHT = 180;

/** @param {string} name */
const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * Draws into an element. Returns a function that ends it.
 * @param {any} uPlot
 * @param {HTMLElement} element
 * @param {any} props
 */
function draw(uPlot, element, { times, series, format }) {
  const axis = { stroke: token('--text-soft'), grid: { stroke: token('--line'), width: 1 }, ticks: { show: false } };
  const chart = new uPlot({
    width: element.clientWidth, height: HEIGHT, cursor: { points: { size: 5 } },
    scales: { y: { range: (/** @type {any} */ _, /** @type {number} */ __, /** @type {number} */ most) => [0, Math.max(most * 1.15, 1)] } },
    series: [{}, ...series.map((/** @type {any} */ { label, color }) => ({
      label, stroke: token(color), width: 1.5, fill: `${token(color)}18`, spanGaps: false, points: { show: times.length < 2 },
      value: (/** @type {any} */ _, /** @type {number | null} */ value) => (value === null ? '' : format(value)),
    }))],
    axes: [axis, { ...axis, size: 64, values: (/** @type {any} */ _, /** @type {number[]} */ values) => values.map(format) }],
  }, [times, ...series.map((/** @type {any} */ { values }) => values)], element);
  const observer = new ResizeObserver(() => chart.setSize({ width: element.clientWidth, height: HEIGHT }));
  observer.observe(element);
  return () => {
    observer.disconnect();
    chart.destroy();
  };
}

/**
 * @param {{label: string, times: number[], series: {label: string, values: (number | null)[], color: string}[],
 *   format: (value: number) => string}} props `times` in seconds since 1970; `color` is the name of a token
 */
export function Chart(props) {
  /** @type {{current: any}} */
  const box = useRef(null);
  useEffect(() => {
    const element = box.current;
    let end = () => {};
    let isGone = false;
    void import('../vendor/uplot.js').then(({ default: uPlot }) => {
      if (!isGone) end = draw(uPlot, element, props);
    });
    return () => {
      isGone = true;
      end();
    };
  }, [props.times, props.series]);
  return html`<figure class="card stack"><figcaption><h2>${props.label}</h2></figcaption><div class="chart" ref=${box}></div></figure>`;
}
