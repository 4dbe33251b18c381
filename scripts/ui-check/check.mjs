// The dashboard in a browser: a journey, every screen, and stored content that must stay text.

import { chromium } from 'playwright-core';
import { attack } from './attack.mjs';
import { journey } from './journey.mjs';
import { checkScreens } from './screens.mjs';
import { takeShots } from './shots.mjs';
import { startServer } from './server.mjs';

const problems = [];
const report = (text) => {
  problems.push(text);
  console.error(`FAILED  ${text}`);
};

const server = await startServer();
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });

/** A page of a browser of its own, with this in the storage of its tab. @param {Record<string, string>} [storage] @param {{isQuiet?: boolean}} [options] */
async function open(storage = {}, { isQuiet = false } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 } });
  await context.addInitScript((values) => {
    for (const [name, value] of Object.entries(values)) (name === 'vski-theme' ? localStorage : sessionStorage).setItem(name, value);
  }, storage);
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  if (!isQuiet) page.on('console', (message) => ['error', 'warning'].includes(message.type()) && !isExpected(message.text()) && report(`console at ${page.url()}: ${message.text()}`));
  page.on('pageerror', (error) => report(`error at ${page.url()}: ${error.stack}`));
  page.on('dialog', (dialog) => {
    report(`stored content ran at ${page.url()}: ${dialog.message()}`);
    void dialog.dismiss();
  });
  return page;
}

try {
  const page = await open();
  await journey(page, server);
  const session = (await page.evaluate(() => sessionStorage.getItem('vski-dashboard'))) ?? '';
  await page.close();
  if (process.env.SHOTS) await takeShots(open, session, server, process.env.SHOTS);
  await attack(open, session, server.url, report);
  await checkScreens(open, session, server, report);
} finally {
  await browser.close();
  await server.stop();
}
if (problems.length > 0) {
  console.error(`${problems.length} problems`);
  process.exit(1);
}

/** Refused requests are part of the journey; browsers report each in the console. @param {string} text */
function isExpected(text) {
  return /Failed to load resource: the server responded with a status of (400|401|403|404|409|412)/.test(text);
}
