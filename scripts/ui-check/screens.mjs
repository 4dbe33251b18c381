// Every screen in light and dark, wide and narrow.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const SCREENS = [
  '', 'records/posts', 'records/posts?record=new', 'records/members', 'collections', 'collections?new=1', 'collections?import=1', 'collections/titles', 'collections/posts', 'collections/posts?tab=rules', 'collections/posts?tab=indexes',
  'collections/posts?tab=try', 'collections/posts?tab=api', 'collections/posts?tab=json', 'databases', 'workflows', 'workflows/queue', 'workflows/workers', 'jobs', 'jobs/tidy', 'webhooks', 'webhooks?edit=new', 'webhooks/calls', 'replication', 'requests', 'requests/log', 'backups', 'backups?new=1',
  'files', 'sql', 'sql?q=SELECT%20*%20FROM%20posts', 'settings', 'settings/mail', 'settings/storage', 'access', 'access/keys', 'access/keys?new=1', 'nowhere',
];
/** Width, height, theme; the last two only with --full. @type {[number, number, string][]} */
const LOOKS = [[1280, 860, 'light'], [390, 844, 'dark'], [1280, 860, 'dark'], [390, 844, 'light']];
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/**
 * Opens the screens in each look, two looks at a time.
 * @param {(storage: Record<string, string>) => Promise<import('playwright-core').Page>} open makes a page of a browser that
 *   has this in its storage
 * @param {string} session of the admin
 * @param {{url: string}} server
 * @param {(text: string) => void} report
 */
export async function checkScreens(open, session, server, report) {
  const looks = LOOKS.slice(0, process.env.FULL ? 4 : 2);
  const all = async (/** @type {typeof LOOKS} */ [look, ...rest]) => {
    const [width, height, theme] = look;
    const page = await open({ 'vski-dashboard': session, 'vski-theme': theme });
    await page.setViewportSize({ width, height });
    for (const screen of SCREENS) {
      await page.goto(`${server.url}/_/${screen}`);
      await page.locator('main h1, main .empty').first().waitFor();
      await page.waitForFunction(() => document.querySelector('main [role="status"]')?.textContent !== 'Loading...');
      await checkOne(page, `${screen || 'home'} ${width} ${theme}`, report);
    }
    await page.close();
    if (rest.length > 0) await all(rest);
  };
  const halves = [looks.filter((_, at) => at % 2 === 0), looks.filter((_, at) => at % 2 === 1)];
  await Promise.all(halves.map(all));
  console.log(`ok  ${SCREENS.length * looks.length} views of ${SCREENS.length} screens`);
}

/** @param {import('playwright-core').Page} page @param {string} name @param {(text: string) => void} report */
async function checkOne(page, name, report) {
  if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth + 1)) report(`${name}: wider than the screen`);
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => /** @type {any} */ (globalThis).axe.run(document, { resultTypes: ['violations'] }));
  for (const { id, nodes } of violations) report(`${name}: axe ${id}: ${nodes[0].html.slice(0, 200)}`);
}
