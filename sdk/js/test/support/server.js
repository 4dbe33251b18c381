// A real server for tests: on a free port and a directory of its own, which the end of the test removes.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { VskiClient } from 'vski';

const BINARY = process.env.VSKI_BINARY ?? new URL('../../../../target/debug/vski', import.meta.url).pathname;
export const ADMIN = { email: 'admin@example.com', password: 'correct-horse-1' };

const servers = [];
after(async () => {
  for (const server of servers) {
    await server.kill();
    rmSync(server.folder, { recursive: true, force: true });
  }
});

/** A port that is free now, for a server that restarts on it. */
function freePort() {
  return new Promise((resolve) => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

export class Server {
  static async start(variables = {}) {
    const server = new Server();
    server.folder = mkdtempSync(join(tmpdir(), 'vski-sdk-js-'));
    server.port = await freePort();
    server.url = `http://127.0.0.1:${server.port}`;
    server.variables = variables;
    servers.push(server);
    await server.restart();
    return server;
  }

  /** Starts the process again, on the same port and data. */
  async restart() {
    const env = {
      PATH: process.env.PATH, HOST: '127.0.0.1', PORT: String(this.port), DATA_DIR: join(this.folder, 'data'),
      JWT_SECRET: 'a secret that is long enough for the tests', LOG: 'info', ...this.variables,
    };
    this.log = '';
    this.process = spawn(BINARY, ['serve'], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream.on('data', (bytes) => (this.log += bytes));
    }
    await until('the server listens', () => {
      if (this.process.exitCode !== null) throw new Error(`the server exited: ${this.log}`);
      return this.log.includes(' listening on ');
    });
  }

  /** Ends the process at once, as a power cut does. */
  async kill() {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const ended = new Promise((resolve) => this.process.once('exit', resolve));
    this.process.kill('SIGKILL');
    await ended;
  }

  /** A client that is signed in as the admin. */
  async admin(options) {
    const client = new VskiClient(this.url, options);
    await client.admins.login(ADMIN.email, ADMIN.password).catch(async (error) => {
      if (error.status !== 401) throw error;
      await client.admins.init(ADMIN);
    });
    return client;
  }

  /** The token of the link in the last mail, which a server without SMTP_URL writes to its log. */
  async mailed() {
    let token;
    await until('a mail in the log', () => (token = this.log.match(/\/auth\/confirm#(\S+)/g)?.at(-1)?.split('#')[1]));
    this.log = '';
    return token;
  }
}

/** Waits until a condition holds; fails after 20 s. */
export async function until(what, condition, ms = 20_000) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`timed out: ${what}`);
    await pause(10);
  }
}

/** For assert.rejects: an error with this code or status. */
export function refused(expected) {
  return (error) => {
    if (error.name !== 'VskiError') throw error;
    const is = typeof expected === 'number' ? error.status : error.code;
    if (is !== expected) throw new Error(`expected ${expected}, got ${error.status} ${error.code}: ${error.message}`);
    return true;
  };
}

/** A collection that everyone can use. */
export const OPEN = { listRule: '', viewRule: '', createRule: '', updateRule: '', deleteRule: '' };
export const POSTS = {
  name: 'posts',
  ...OPEN,
  fields: [
    { name: 'title', type: 'text', required: true },
    { name: 'views', type: 'number' },
    { name: 'public', type: 'bool' },
    { name: 'tags', type: 'select', values: ['a', 'b', 'c'], maxSelect: 3 },
    { name: 'doc', type: 'file', maxSize: 20_000_000 },
    { name: 'parent', type: 'relation', collectionId: 'posts' },
  ],
};
