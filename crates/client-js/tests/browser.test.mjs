// What the browser tells: that there is no network, that there is one again, and that the page is looked at.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Surroundings } from '../src/surroundings.js';
import { client, names, QUICK } from './lib/client.mjs';
import { Gateway } from './lib/gateway.mjs';
import { pause, QUIET_MS, until } from './lib/wait.mjs';

/** Longer than any test. */
const NEVER = { attempts: 2, delayMs: 600_000, delayMaxMs: 600_000 };

/** A page, whose `tell(name)` is what happens to it, and which counts its listeners. */
class Page {
  listeners = 0;

  constructor({ onLine = true } = {}) {
    const page = this;
    class Target extends EventTarget {
      addEventListener(...args) {
        page.listeners += 1;
        super.addEventListener(...args);
      }

      removeEventListener(...args) {
        page.listeners -= 1;
        super.removeEventListener(...args);
      }
    }
    this.window = new Target();
    this.document = Object.assign(new Target(), { visibilityState: 'visible' });
    this.navigator = { onLine };
    this.surroundings = new Surroundings({ ...this, location: { href: 'http://127.0.0.1/page/index.html' } });
  }

  tell(name) {
    if (name === 'online' || name === 'offline') {
      this.navigator.onLine = name === 'online';
      this.window.dispatchEvent(new Event(name));
      return;
    }
    this.document.visibilityState = name;
    this.document.dispatchEvent(new Event('visibilitychange'));
  }
}

test('a path is relative to the page', async (t) => {
  const urls = [];
  class Noted {
    constructor(url) {
      urls.push(url);
      throw new Error('noted');
    }
  }
  const page = new Page();
  for (const path of ['/ws', 'ws', '/', 'https://example.org', 'wss://example.org:8443/other?a=b']) client(t, path, { WebSocket: Noted, allowReconnect: false, fallback: false }, page.surroundings);
  await until('all have tried', () => urls.length === 5);
  assert.deepEqual(urls, ['ws://127.0.0.1/ws', 'ws://127.0.0.1/page/ws', 'ws://127.0.0.1/ws', 'wss://example.org/ws', 'wss://example.org:8443/other?a=b']);
});

test('without a network it waits, spends no tries and does not beat; with one it tries at once', async (t) => {
  const gateway = await Gateway.start(t);
  const page = new Page();
  const told = client(t, gateway.url, { reconnect: QUICK, heartbeatMs: 20 }, page.surroundings);
  const first = await gateway.visits.next();
  await told.successes.next();
  page.tell('offline');
  assert.equal(told.socket.status, 'connected', 'as long as the connection lives');
  await pause(50);
  const { pings } = first;
  await pause(QUIET_MS);
  assert.equal(first.pings, pings);
  first.cut();
  await until('it waits', () => told.socket.status === 'waiting');
  assert.deepEqual(told.statuses.at(-1), ['waiting', { attempt: 1, delayMs: null, reason: 'offline' }]);
  await pause(QUIET_MS);
  page.tell('visible');
  assert.equal(gateway.count, 1);
  page.tell('online');
  assert.equal((await told.successes.next()).reconnected, true);
  assert.equal(told.failures.waiting, 0);
});

test('a try that the network’s end interrupts does not count', async (t) => {
  const gateway = await Gateway.start(t, { connect() {} });
  const page = new Page();
  const told = client(t, gateway.url, { reconnect: { ...QUICK, attempts: 1 } }, page.surroundings);
  await gateway.visits.next();
  for (let round = 0; round < 3; round += 1) {
    page.tell('offline');
    assert.deepEqual(told.statuses.at(-1), ['waiting', { attempt: 1, delayMs: null, reason: 'offline' }]);
    page.tell('online');
    assert.equal(told.socket.status, 'connecting');
    await gateway.visits.next();
  }
  await until('the others are gone', () => gateway.live === 1);
});

test('it waits for the network also if that was gone from the start, after one try', async (t) => {
  const gateway = await Gateway.start(t);
  await gateway.stop();
  const page = new Page({ onLine: false });
  const told = client(t, gateway.url, {}, page.surroundings);
  await until('it waits', () => told.socket.status === 'waiting');
  assert.equal(told.statuses.at(-1)[1].delayMs, null);
  await gateway.listen();
  page.tell('online');
  await told.successes.next();
  assert.deepEqual(names(told), ['connecting', 'waiting', 'connecting', 'connected']);
});

test('the network’s return cuts a wait short, and so does a look at the page', async (t) => {
  const gateway = await Gateway.start(t);
  const page = new Page();
  const told = client(t, gateway.url, { reconnect: NEVER }, page.surroundings);
  await told.successes.next();
  for (const event of ['online', 'visible', 'online', 'visible']) {
    (await gateway.visits.next()).cut();
    await until('it waits', () => told.socket.status === 'waiting');
    page.tell('hidden');
    assert.equal(told.socket.status, 'waiting');
    page.tell(event);
    await told.successes.next();
  }
});

test('a look at the page spends no tries', async (t) => {
  const gateway = await Gateway.start(t);
  await gateway.stop();
  const page = new Page();
  const told = client(t, gateway.url, { reconnect: NEVER }, page.surroundings);
  for (let round = 0; round < 5; round += 1) {
    await until('it waits', () => told.statuses.length === 2 * (round + 1));
    assert.equal(told.statuses.at(-1)[1].attempt, 1);
    page.tell('visible');
  }
  await gateway.listen();
});

for (const event of ['visible', 'online']) {
  test(`a page that is ${event} again finds out quickly that its connection is dead`, async (t) => {
    const gateway = await Gateway.start(t, { answersPings: false });
    const page = new Page();
    const told = client(t, gateway.url, { heartbeatTimeoutMs: 30 }, page.surroundings);
    const visit = await gateway.visits.next();
    await told.successes.next();
    page.tell('hidden');
    page.tell(event);
    assert.equal((await told.successes.next()).reconnected, true);
    assert.equal(visit.pings, 1);
  });
}

test('after its end it listens to nothing', async (t) => {
  const gateway = await Gateway.start(t);
  const page = new Page();
  const told = client(t, gateway.url, {}, page.surroundings);
  const visit = await gateway.visits.next();
  await told.successes.next();
  assert.equal(page.listeners, 3);
  visit.close(4410, 'kicked');
  await told.failures.next();
  assert.equal(page.listeners, 0);
  const other = client(t, gateway.url, {}, page.surroundings);
  await other.successes.next();
  other.socket.close();
  assert.equal(page.listeners, 0);
  for (const event of ['offline', 'online', 'visible']) page.tell(event);
  assert.equal(other.socket.status, 'closed');
});
