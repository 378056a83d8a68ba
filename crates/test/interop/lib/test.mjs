// The test function of this suite: node:test's, under deadlines of its own.
//
// Every wait inside a test is bounded already. Here is what bounds the rest: a test that hangs all the same, a hook
// that never ends, and a handle that keeps the file alive after its last test. The runner's own options for that are
// not in Node 18, and one of them hides such handles.

import { describe as plainDescribe, test as plain } from 'node:test';

/** For one test in milliseconds, far above the longest. */
const TEST_WITHIN_MS = 60_000;

/** Without any test beginning or ending in this file. Above what a test and the undoing of its stage may take. */
const STILL_WITHIN_MS = 120_000;

let watchdog;

function rearm() {
  clearTimeout(watchdog);
  watchdog = setTimeout(() => {
    process.stderr.write(`no test began or ended for ${STILL_WITHIN_MS} ms; still alive: ${process.getActiveResourcesInfo().join(', ')}\n`);
    process.exit(1);
  }, STILL_WITHIN_MS);
  // It must not be what keeps the process alive.
  watchdog.unref();
}

rearm();

/**
 * `describe(name, [options], body)`. With `skip` it is left out, not skipped: what only one of the two subjects
 * promises is no test of the other. With `needs`, the reason why this machine cannot run it, it is skipped, and the
 * runner says so; a run for CI fails of that.
 */
export function describe(name, ...rest) {
  const body = rest.pop();
  const [{ needs, ...options } = {}] = rest;
  if (options.skip) return undefined;
  if (needs) process.stderr.write(`NOT RUN: ${name}: ${needs}\n`);
  return plainDescribe(name, { ...options, skip: needs }, body);
}

/** `test(name, [options], body)`, left out with `skip` as above. */
export function test(name, ...rest) {
  const body = rest.pop();
  const [options = {}] = rest;
  if (options.skip) return undefined;
  return plain(name, { timeout: TEST_WITHIN_MS, ...options }, async (t) => {
    rearm();
    try {
      await body(t);
    } finally {
      rearm();
    }
  });
}
