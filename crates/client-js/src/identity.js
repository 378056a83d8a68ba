// Ids of requests.

/** A string that nobody has had before: `send` is known by it, across connections and across restarts. */
export function freshId() {
  // Missing on pages that were not fetched over HTTPS.
  if (typeof globalThis.crypto?.randomUUID === 'function') return globalThis.crypto.randomUUID();
  let hex = Date.now().toString(16);
  while (hex.length < 32) hex += Math.floor(Math.random() * 16).toString(16);
  return hex;
}
