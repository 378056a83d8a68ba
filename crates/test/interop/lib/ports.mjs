// Free loopback ports, taken from below the ephemeral range so that no outgoing connection sits on one.
//
// Test files run side by side, each in a process of its own: each walks the range from a start of its own and hands
// out no port twice, so that two of them hardly ever meet on the way from choosing a port to binding it.

import net from 'node:net';

/** Above 10,080, the last port that browsers refuse to speak to. */
const FIRST = 10_100;
const LAST = 32_000;

/** A prime, so that neighbouring process ids start far apart. */
const STRIDE = 7_919;

let next = (process.pid * STRIDE) % (LAST - FIRST);

function isFree(port) {
  return new Promise((resolve) => {
    const probe = net.createServer();
    probe.once('error', () => resolve(false));
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
  });
}

/** A port p such that p + 10·i and p + 1 + 10·i are free for every i below `nodes`. */
export async function freePort(nodes = 1) {
  for (let walked = 0; walked < LAST - FIRST; walked += 10 * nodes) {
    const base = FIRST + next;
    next = (next + 10 * nodes) % (LAST - FIRST - 10 * nodes);
    let free = true;
    for (let node = 0; node < nodes && free; node += 1) {
      free = (await isFree(base + 10 * node)) && (await isFree(base + 1 + 10 * node));
    }
    if (free) return base;
  }
  throw new Error('found no free port');
}
