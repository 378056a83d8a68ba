// Free loopback ports, taken from below the ephemeral range so that no outgoing connection sits on one.

import net from 'node:net';

const FIRST = 10_000;
const LAST = 32_000;
const ATTEMPTS_MAX = 200;

function isFree(port) {
  return new Promise((resolve) => {
    const probe = net.createServer();
    probe.once('error', () => resolve(false));
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
  });
}

/** A port p such that p + 10·i and p + 1 + 10·i are free for every i below `nodes`. */
export async function freePort(nodes = 1) {
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt += 1) {
    const base = FIRST + Math.floor(Math.random() * (LAST - FIRST - 10 * nodes));
    let free = true;
    for (let node = 0; node < nodes && free; node += 1) {
      free = (await isFree(base + 10 * node)) && (await isFree(base + 1 + 10 * node));
    }
    if (free) return base;
  }
  throw new Error('found no free port');
}
