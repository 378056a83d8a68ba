// Waiting for conditions, always with a deadline, so that a test fails with a sentence instead of hanging.

import { setTimeout as pause } from 'node:timers/promises';

/** Default deadline in milliseconds: far above what any step takes on a busy machine. */
export const WITHIN_MS = 5_000;

const POLL_MS = 10;

export { pause };

/** Polls `condition` (may be async) until it gives a truthy value, and returns that value. */
export async function until(what, condition, within = WITHIN_MS) {
  const deadline = Date.now() + within;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`not within ${within} ms: ${what}`);
    await pause(POLL_MS);
  }
}

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

/** A first-in, first-out queue whose reader waits with a deadline. */
export class Inbox {
  #items = [];
  #wake = null;
  #ended = null;

  push(item) {
    this.#items.push(item);
    this.#wake?.();
  }

  /** No more items will come; readers that wait are told `why`. */
  end(why) {
    this.#ended ??= why;
    this.#wake?.();
  }

  get ended() {
    return this.#ended;
  }

  get waiting() {
    return this.#items.length;
  }

  /** Everything that waits, without waiting for more. */
  drain() {
    return this.#items.splice(0);
  }

  async next(what = 'another item', within = WITHIN_MS) {
    const deadline = Date.now() + within;
    while (this.#items.length === 0) {
      if (this.#ended !== null) throw new Error(`ended (${this.#ended}) while waiting for ${what}`);
      const left = deadline - Date.now();
      if (left <= 0) throw new Error(`not within ${within} ms: ${what}`);
      const woken = new Promise((resolve) => (this.#wake = resolve));
      await limited(what, woken, left);
    }
    return this.#items.shift();
  }
}
