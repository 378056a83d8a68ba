// What is left of a client that was closed. Alone in its file, since it counts what the process holds.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import WebSocket from 'ws';
import { Socket } from '../src/index.js';
import { QUICK } from './lib/client.mjs';
import { Gateway } from './lib/gateway.mjs';
import { Poller } from './lib/poller.mjs';
import { until } from './lib/wait.mjs';

const kinds = () => process.getActiveResourcesInfo().filter((kind) => ['Timeout', 'TCPSocketWrap', 'TCPConnectWrap'].includes(kind)).sort().join();

class Blocked {
  constructor() {
    throw new Error('blocked');
  }
}

test('close leaves no timer and no socket, whatever it interrupts', async (t) => {
  const silent = await Gateway.start(t, { connect() {} });
  const gateway = await Gateway.start(t);
  const poller = await Poller.start(t);
  const before = kinds();
  const clients = [];
  const make = (url, options) => {
    const socket = new Socket(url, { WebSocket, reconnect: QUICK, ...options });
    clients.push(socket);
    return socket;
  };
  const makeAll = () => [
    make(silent.url, {}),
    make(silent.url, { auth: () => new Promise(() => {}) }),
    make(gateway.url, { auth: { user: 'ann' } }),
    make(poller.url, { transport: 'polling' }),
    make(poller.url, { fallback: 'always', WebSocket: Blocked }),
    make(gateway.url.replace('/ws', '/elsewhere'), { reconnect: { attempts: Infinity, delayMs: 60_000, delayMaxMs: 60_000 } }),
  ];
  makeAll().forEach((socket) => socket.close());
  const [connecting, asking, plain, polling, fallen, waiting] = makeAll();
  await until('each is where it should be', () => waiting.status === 'waiting' && [plain, polling, fallen].every(({ status }) => status === 'connected'));
  assert.deepEqual([connecting.status, asking.status], ['connecting', 'connecting']);
  plain.join('lobby');
  polling.join('lobby');
  for (const socket of clients) {
    socket.close();
    assert.equal(socket.status, 'closed');
    assert.equal(socket.pending, 0);
  }
  await until('the farewells are over', () => silent.live === 0 && gateway.live === 0 && poller.sessions.size === 0);
  // Its idle connections are the agent’s of fetch, not ours; they hold no process.
  poller.http.closeAllConnections();
  await until('nothing is left', () => kinds() === before);
});
