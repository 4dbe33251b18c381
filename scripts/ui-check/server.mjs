// A server on a temporary data directory and a free port.

import { spawn } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const START_MS = 20_000;
export const SECRET = 'a secret of at least thirty-two bytes';
export const ADMIN = { email: 'ada@example.com', password: 'correct horse' };

/**
 * Starts a server. Resolves with its URL, its log so far, and a function that ends it.
 * @param {Record<string, string>} [settings]
 */
export async function startServer(settings = {}) {
  const data = mkdtempSync(join(process.env.TMPDIR ?? tmpdir(), 'vski-ui-data.'));
  const child = spawn(process.env.VSKI_BINARY, ['serve'], { env: { PATH: process.env.PATH, DATA_DIR: data, PORT: '0', JWT_SECRET: SECRET, ...settings }, stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  const url = await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`the server does not start:\n${log}`)), START_MS);
    child.on('exit', () => reject(new Error(`the server has ended:\n${log}`)));
    child.stderr.on('data', (chunk) => {
      log += chunk;
      const found = /addr=([0-9.]+:\d+)/.exec(log);
      if (found) {
        clearTimeout(timer);
        resolve(`http://${found[1]}`);
      }
    });
  });
  const stop = () => new Promise((resolve) => {
    child.removeAllListeners('exit');
    child.on('exit', resolve);
    child.kill('SIGTERM');
  });
  return { url, stop, log: () => log };
}

/** Calls the API. @param {string} url @param {string} token */
export function apiOf(url, token) {
  return async (method, path, body) => {
    const headers = { 'Content-Type': 'application/json', ...(token && { Authorization: `Bearer ${token}` }) };
    const answer = await fetch(url + path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
    const text = await answer.text();
    return { status: answer.status, data: text ? JSON.parse(text) : null };
  };
}
