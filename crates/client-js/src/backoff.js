// How long to wait before the next try.

/**
 * Milliseconds before try number `attempt`, counted from 1: `delayMs`, doubled with every try up to `delayMaxMs`, and
 * then up to the part `jitter` (0 to 1) of it earlier or later, never later than `delayMaxMs`.
 */
export function backoffMs({ delayMs, delayMaxMs, jitter }, attempt, random = Math.random) {
  // Bounded, since 2 ** 1024 is an infinity, and times 0 none.
  const doubled = Math.min(delayMaxMs, delayMs * 2 ** Math.min(attempt - 1, 40));
  const shifted = doubled * (1 + jitter * (2 * random() - 1));
  return Math.round(Math.max(0, Math.min(delayMaxMs, shifted)));
}
