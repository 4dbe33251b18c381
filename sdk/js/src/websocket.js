// The WebSocket of the platform: browsers, Deno, Bun.

/** @returns {any} */
export const platformWebSocket = () => globalThis.WebSocket;
