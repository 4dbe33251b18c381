// Every screen in light and dark, wide and narrow.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const SCREENS = [
  '', 'records/posts', 'records/posts?record=new', 'records/members', 'collections', 'collections?new=1', 'collections/posts', 'collections/posts?tab=rules', 'collections/posts?tab=indexes',
  'collections/posts?tab=try', 'collections/posts?tab=api', 'collections/posts?tab=json', 'databases', 'workflows', 'workflows/queue', 'workflows/workers', 'jobs', 'jobs/tidy', 'webhooks', 'webhooks?edit=new', 'webhooks/calls', 'replication', 'requests',
  'files', 'sql', 'sql?q=SELECT%20*%20FROM%20posts', 'settings', 'settings/mail', 'settings/storage', 'access', 'access/keys', 'access/keys?new=1', 'nowhere',
];
/** Width, height, theme; the last two only with --full. */
const LOOKS = [[1280, 860, 'light'], [390, 844, 'dark'], [1280, 860, 'dark'], [390, 844, 'light']].slice(0, process.env.FULL ? 4 : 2);
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** @param {import('playwright-core').Page} page @param {{url: string}} server @param {(text: string) => void} report */
export async function checkScreens(page, server, report) {
  let count = 0;
  for (const screen of SCREENS) {
    for (const [width, height, theme] of LOOKS) {
      await page.setViewportSize({ width: Number(width), height: Number(height) });
      await page.evaluate((name) => localStorage.setItem('vski-theme', String(name)), theme);
      await page.goto(`${server.url}/_/${screen}`);
      await page.locator('main h1, main .empty').first().waitFor();
      await page.waitForFunction(() => document.querySelector('main [role="status"]')?.textContent !== 'Loading...');
      await checkOne(page, `${screen || 'home'} ${width} ${theme}`, report);
      count += 1;
      if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/${screen.replace(/\W+/g, '-') || 'home'}-${width}-${theme}.png` });
    }
  }
  console.log(`ok  ${count} views of ${SCREENS.length} screens`);
}

/** @param {import('playwright-core').Page} page @param {string} name @param {(text: string) => void} report */
async function checkOne(page, name, report) {
  if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth + 1)) report(`${name}: wider than the screen`);
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => /** @type {any} */ (globalThis).axe.run(document, { resultTypes: ['violations'] }));
  for (const { id, nodes } of violations) report(`${name}: axe ${id}: ${nodes[0].html.slice(0, 200)}`);
}
