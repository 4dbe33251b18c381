// The dashboard in a browser: a journey, every screen, and stored content that must stay text.

import { chromium } from 'playwright-core';
import { journey } from './journey.mjs';
import { checkScreens } from './screens.mjs';
import { startServer } from './server.mjs';

const problems = [];
const report = (text) => {
  problems.push(text);
  console.error(`FAILED  ${text}`);
};

const server = await startServer();
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
try {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 } });
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && !isExpected(message.text()) && report(`console at ${page.url()}: ${message.text()}`));
  page.on('pageerror', (error) => report(`error at ${page.url()}: ${error.stack}`));
  page.on('dialog', (dialog) => {
    report(`stored content ran at ${page.url()}: ${dialog.message()}`);
    void dialog.dismiss();
  });
  await journey(page, server);
  await checkScreens(page, server, report);
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
