// Which server a request goes to: writes to the master, reads to the nearest replica; and the versions of the latest
// writes, with which a read on a replica contains them.

/** Replicas further behind than this are not used. */
const BEHIND_SECONDS = 60;
const PROBE_MS = 3000;
/** After a failure, the replicas are not tried again sooner. */
const AGAIN_MS = 10_000;

export class Replicas {
  /** @type {Map<string, string>} */
  #versions = new Map();
  /** @type {Promise<string> | undefined} */
  #probing;
  #near = '';
  #failed = 0;
  /** The id of the replica that answered last; empty if it was a master. */
  id = '';

  /**
   * @param {string} master
   * @param {string[]} urls
   * @param {typeof fetch} fetcher
   */
  constructor(master, urls, fetcher) {
    this.master = master;
    this.urls = urls;
    this.fetcher = fetcher;
  }

  /** The server for a request. Until the nearest replica is known, the master. @param {boolean} isRead */
  choose(isRead) {
    if (!isRead || this.urls.length === 0) return this.master;
    if (!this.#near && Date.now() - this.#failed > AGAIN_MS) void this.nearest();
    return this.#near || this.master;
  }

  /**
   * The server that answers first and is not far behind, which later reads go to. It is measured once, and again after a
   * failure.
   * @returns {Promise<string>}
   */
  nearest() {
    if (this.#near) return Promise.resolve(this.#near);
    this.#probing ??= this.#probe().finally(() => (this.#probing = undefined));
    return this.#probing;
  }

  async #probe() {
    const signal = AbortSignal.timeout(PROBE_MS);
    const tries = [...this.urls, this.master].map(async (url) => {
      const answer = await this.fetcher(`${url}/api/health?maxSecondsBehind=${BEHIND_SECONDS}`, { signal });
      await answer.body?.cancel();
      if (!answer.ok) throw new Error(url);
      return url;
    });
    const near = await Promise.any(tries).catch(() => '');
    if (near) this.#near = near;
    else this.#failed = Date.now();
    return near || this.master;
  }

  /** A replica does not answer: reads go to the master until another one is found. @param {string} url */
  fail(url) {
    if (this.#near !== url) return;
    this.#near = '';
    this.#failed = Date.now();
  }

  /** @param {string} url */
  isReplica(url) {
    return url !== this.master;
  }

  /** Remembers what an answer says about its server and its write. @param {Headers} headers */
  note(headers) {
    this.id = headers.get('X-Replica-Id') ?? '';
    for (const item of headers.get('X-Vski-Version')?.split(',') ?? []) {
      const text = item.trim();
      this.#versions.set(text.split(':')[0], text);
    }
  }

  /** The versions that a read of a database must contain. @param {string} database */
  versions(database) {
    const known = [...new Set([database, 'default'])].map((name) => this.#versions.get(name));
    return known.filter(Boolean).join(', ');
  }
}
