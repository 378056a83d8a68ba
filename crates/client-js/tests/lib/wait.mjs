// Waiting, always with a deadline, so that a test fails with a sentence instead of hanging.

import { setTimeout as pause } from 'node:timers/promises';

/** Far above what any step takes on a busy machine, in milliseconds. */
export const WITHIN_MS = 5_000;

/** Long enough for what must not happen to happen, in milliseconds. */
export const QUIET_MS = 150;

export { pause };

/** The value of `promise`, or an error that says what did not happen in time. */
export async function limited(what, promise, within = WITHIN_MS) {
  const clock = new AbortController();
  const late = pause(within, undefined, { signal: clock.signal }).then(() => {
    throw new Error(`not within ${within} ms: ${what}`);
  });
  late.catch(() => {});
  try {
    return await Promise.race([promise, late]);
  } finally {
    clock.abort();
  }
}

/** Polls `condition` until it is true. */
export async function until(what, condition, within = WITHIN_MS) {
  const deadline = Date.now() + within;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`not within ${within} ms: ${what}`);
    await pause(5);
  }
}

/** First in, first out, for one reader that waits. */
export class Inbox {
  #items = [];
  #wake = null;

  push(item) {
    this.#items.push(item);
    this.#wake?.();
  }

  get waiting() {
    return this.#items.length;
  }

  async next(what = 'another item', within = WITHIN_MS) {
    const deadline = Date.now() + within;
    while (this.#items.length === 0) {
      const woken = new Promise((resolve) => (this.#wake = resolve));
      await limited(what, woken, Math.max(1, deadline - Date.now()));
    }
    return this.#items.shift();
  }
}
