// Coming back: when, and with what.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Fail, Socket } from '../src/index.js';
import { client, names, QUICK } from './lib/client.mjs';
import { Gateway } from './lib/gateway.mjs';
import { limited, pause, QUIET_MS, until } from './lib/wait.mjs';

test('the presets are what they are', () => {
  assert.deepEqual(Socket.RECONNECT_DEFAULT, { attempts: 3, delayMs: 1_000, delayMaxMs: 1_000, jitter: 0 });
  assert.deepEqual(Socket.RECONNECT_PATIENT, { attempts: 5, delayMs: 1_000, delayMaxMs: 5_000, jitter: 0.5 });
});

test('what it says first, and what it knows then', async (t) => {
  const gateway = await Gateway.start(t);
  const told = client(t, gateway.url.replace('ws:', 'http:').replace('/ws', '/?v=1#top'), { auth: async () => ({ user: 'ann', device: 'd' }), namespace: '/chat' });
  assert.deepEqual([told.socket.session, told.socket.user, told.socket.node], [null, null, null]);
  const visit = await gateway.visits.next();
  assert.deepEqual(await told.successes.next(), { session: 's1', user: 'ann', node: 'n1', heartbeat_ms: 25_000, transport: 'websocket', reconnected: false });
  assert.deepEqual(visit.connect, { op: 'connect', namespace: '/chat', auth: { user: 'ann', device: 'd' } });
  assert.equal(visit.url, '/ws?v=1');
  assert.equal(visit.socket.protocol, 'tidegate.v1.json');
  const { session, user, node, transport, status } = told.socket;
  assert.deepEqual({ session, user, node, transport, status }, { session: 's1', user: 'ann', node: 'n1', transport: 'websocket', status: 'connected' });
});

for (const code of [1001, 1012, 4413, 4429, 4503, 1006]) {
  test(`it comes back after ${code}, with fresh auth`, async (t) => {
    const gateway = await Gateway.start(t);
    let calls = 0;
    const told = client(t, gateway.url, { auth: () => ({ token: `t${(calls += 1)}` }) });
    const first = await gateway.visits.next();
    await told.successes.next();
    if (code === 1006) first.cut();
    else first.close(code, '');
    const second = await gateway.visits.next('the next connection');
    assert.equal((await told.successes.next()).reconnected, true);
    assert.deepEqual([first.connect.auth.token, second.connect.auth.token], ['t1', 't2']);
    assert.deepEqual(names(told), ['connecting', 'connected', 'waiting', 'connecting', 'connected']);
    const [, { attempt, delayMs, reason }] = told.statuses[2];
    assert.deepEqual([attempt, delayMs], [1, 10]);
    assert.equal(reason, `closed with ${code}`);
  });
}

test('a server that lets in and closes is not come back to for ever', async (t) => {
  const gateway = await Gateway.start(t, {
    connect(visit) {
      Gateway.prototype.connect.call(gateway, visit);
      visit.close(4503, 'unavailable: lost');
    },
  });
  const told = client(t, gateway.url);
  assert.equal((await told.failures.next()).code, Fail.UNREACHABLE);
  assert.equal(gateway.count, 4);
  const waits = told.statuses.filter(([status]) => status === 'waiting').map(([, { attempt }]) => attempt);
  assert.deepEqual(waits, [1, 2, 3]);
});

test('tries are counted anew after a connection that lasted', async (t) => {
  const { setTimeout } = globalThis;
  const asked = [];
  // Five seconds are short here.
  globalThis.setTimeout = (ring, ms, ...args) => asked.push(ms) && setTimeout(ring, ms === 5_000 ? 30 : ms, ...args);
  t.after(() => (globalThis.setTimeout = setTimeout));
  const gateway = await Gateway.start(t);
  const told = client(t, gateway.url, { reconnect: { ...QUICK, attempts: 1 } });
  for (let round = 0; round < 4; round += 1) {
    const visit = await gateway.visits.next();
    assert.equal((await told.successes.next()).reconnected, round > 0);
    await pause(QUIET_MS);
    visit.cut();
  }
  await told.successes.next();
  assert.equal(told.failures.waiting, 0);
  const rare = client(t, gateway.url, { reconnect: { ...QUICK, delayMaxMs: 7_000 } });
  await rare.successes.next();
  assert.ok(asked.includes(7_000), 'or as long as the longest delay');
});

test('what is left out of reconnect is the default’s', async (t) => {
  const gateway = await Gateway.start(t);
  await gateway.stop();
  for (const [reconnect, delayMs] of [[{ delayMs: 5_000 }, 5_000], [{ attempts: undefined, delayMs: undefined, delayMaxMs: undefined, jitter: undefined }, 1_000], [undefined, 1_000], [null, 1_000]]) {
    const told = client(t, gateway.url, { reconnect });
    await until('it waits', () => told.socket.status === 'waiting');
    assert.equal(told.statuses.at(-1)[1].delayMs, delayMs);
  }
  await gateway.listen();
});

test('the server is told which session was lost, and at first nothing', async (t) => {
  for (const [auth, wanted] of [[undefined, {}], [null, {}], [{ user: 'ann' }, { user: 'ann' }], [async () => ({ token: 't' }), { token: 't' }]]) {
    const gateway = await Gateway.start(t);
    const told = client(t, gateway.url, { auth, reconnect: { ...QUICK, attempts: 10 } });
    const said = async () => {
      const visit = await gateway.visits.next();
      await until('connect is said', () => visit.connect);
      return visit;
    };
    const first = await said();
    assert.deepEqual(first.connect.auth ?? {}, wanted);
    const { session } = await told.successes.next();
    first.cut();
    const second = await said();
    assert.deepEqual(second.connect.auth, { ...wanted, resumes: session });
    const { session: next } = await told.successes.next();
    gateway.connect = (visit) => visit.cut();
    second.cut();
    // Until it is connected again.
    for (let tries = 0; tries < 2; tries += 1) assert.deepEqual((await said()).connect.auth, { ...wanted, resumes: next });
    delete gateway.connect;
    await told.successes.next();
  }
});

test('who is told that a later session holds its place stays away', async (t) => {
  const gateway = await Gateway.start(t);
  const told = client(t, gateway.url);
  const first = await gateway.visits.next();
  await told.successes.next();
  gateway.connect = (visit, { auth }) => visit.close(4409, auth.resumes ? 'duplicate_session: since' : 'replaced');
  first.cut();
  const found = await told.failures.next();
  assert.deepEqual([found.code, found.error.code], [Fail.CLOSED, 'duplicate_session']);
});

/** What a server does whose token has expired. */
function expire(visit) {
  visit.send({ op: 'evicted', reason: 'expired' });
  visit.close(4401, 'token_expired');
}

test('after an expiry it comes back at once with a fresh token, and a second time after a while', async (t) => {
  const gateway = await Gateway.start(t);
  let calls = 0;
  const told = client(t, gateway.url, { auth: () => ({ token: `t${(calls += 1)}` }), reconnect: { attempts: 3, delayMs: 600_000, delayMaxMs: 600_000 } });
  const first = await gateway.visits.next();
  await told.successes.next();
  const asked = told.socket.publish('r', 'kept');
  expire(first);
  assert.equal((await told.messages.next()).message.reason, 'expired');
  const second = await gateway.visits.next();
  assert.equal((await told.successes.next()).reconnected, true);
  assert.equal(second.connect.auth.token, 't2');
  assert.equal((await limited('an answer', asked)).ok, true);
  assert.deepEqual(names(told), ['connecting', 'connected', 'connecting', 'connected']);
  second.close(4401, '');
  await until('it waits', () => told.socket.status === 'waiting');
  assert.equal(told.statuses.at(-1)[1].attempt, 2);
});

test('what became of a session does not become of the next one', async (t) => {
  const gateway = await Gateway.start(t);
  const told = client(t, gateway.url, { auth: () => ({ token: 't' }) });
  const first = await gateway.visits.next();
  await told.successes.next();
  expire(first);
  await told.successes.next();
  (await gateway.visits.next()).cut();
  await told.successes.next('it comes back as ever');
  const reasons = told.statuses.filter(([status]) => status === 'waiting').map(([, { reason }]) => reason);
  assert.deepEqual(reasons, ['closed with 1006']);
});

test('a fresh token that is refused is final, and so is an expiry after the last try', async (t) => {
  const gateway = await Gateway.start(t);
  const told = client(t, gateway.url, { auth: () => ({ token: 't' }) });
  const spent = client(t, gateway.url, { auth: () => ({ token: 't' }), reconnect: { ...QUICK, attempts: 1 } });
  for (const each of [told, spent]) await each.successes.next();
  const visits = [await gateway.visits.next(), await gateway.visits.next()];
  const { connect } = gateway;
  gateway.connect = (visit) => visit.close(4401, 'token_expired: still');
  for (const visit of visits) expire(visit);
  for (const each of [told, spent]) {
    const found = await each.failures.next();
    assert.deepEqual([found.code, found.closeCode, found.error.code, found.error.message], [Fail.REFUSED, 4401, 'token_expired', 'still']);
  }
  gateway.connect = (visit) => {
    connect.call(gateway, visit);
    expire(visit);
  };
  const round = client(t, gateway.url, { auth: () => ({ token: 't' }) });
  const found = await round.failures.next();
  assert.deepEqual([found.code, found.error.code], [Fail.REFUSED, 'token_expired']);
  assert.equal(gateway.count, 4 + 4, 'three tries');
});

test('the delay grows up to its maximum, and attempts may have no end', async (t) => {
  const gateway = await Gateway.start(t);
  await gateway.stop();
  const told = client(t, gateway.url, { reconnect: { attempts: Infinity, delayMs: 4, delayMaxMs: 20 } });
  const waits = () => told.statuses.filter(([status]) => status === 'waiting').map(([, { delayMs }]) => delayMs);
  await until('it has tried for the sixth time', () => waits().length >= 6);
  assert.deepEqual(waits().slice(0, 6), [4, 8, 16, 20, 20, 20]);
  await gateway.listen();
  assert.equal((await told.successes.next()).reconnected, false, 'it was never connected');
});

test('the old connection is gone before there is a new one', async (t) => {
  const gateway = await Gateway.start(t, { answersPings: false });
  const told = client(t, gateway.url, { heartbeatMs: 5, heartbeatTimeoutMs: 20, reconnect: { attempts: 10, delayMs: 5, delayMaxMs: 5 } });
  for (let round = 0; round < 10; round += 1) await told.successes.next();
  assert.equal(gateway.mostLive, 1);
  told.socket.close();
  await until('the last one is gone', () => gateway.live === 0);
  const { count } = gateway;
  await pause(QUIET_MS);
  assert.equal(gateway.count, count, 'and none follows');
});

test('what an old connection still says is not heard', async (t) => {
  const made = [];
  class Deaf {
    readyState = 1;
    constructor() {
      made.push(this);
    }
    send() {}
    close() {}
  }
  const told = client(t, 'ws://127.0.0.1:9', { WebSocket: Deaf });
  await until('it opens', () => made.length === 1);
  const [{ onopen, onmessage, onclose }] = made;
  onopen();
  onmessage({ data: '{"op":"connected","session":"s1"}' });
  onclose({ code: 1006, reason: '' });
  await until('it opens again', () => made.length === 2);
  assert.deepEqual([made[0].onopen, made[0].onmessage, made[0].onclose], [null, null, null]);
  onmessage({ data: 'rubbish' });
  onclose({ code: 4401, reason: 'unauthorized' });
  assert.equal(told.socket.status, 'connecting');
  assert.equal(told.failures.waiting, 0);
});

test('rooms come first, then online, then what was not answered and what was asked meanwhile', async (t) => {
  const gateway = await Gateway.start(t);
  const told = client(t, gateway.url, { reconnect: { ...QUICK, delayMs: 100, delayMaxMs: 100 } });
  const { socket } = told;
  const first = await gateway.visits.next();
  await Promise.all(['a', 'b', 'c'].map((room) => socket.join(room)));
  await socket.leave('b');
  await socket.online({ ack: 'none' });
  for (let asked = 0; asked < 5; asked += 1) await first.messages.next();
  gateway.answer = () => undefined;
  const before = Date.now();
  const sent = socket.send('bob', 1, { event: 'note' });
  const lost = await first.messages.next();
  first.cut();
  await until('it waits', () => socket.status === 'waiting');
  const later = [socket.publish('a', 2), socket.emit('order', { beer: 2 })];
  assert.equal(socket.pending, 3);

  const second = await gateway.visits.next();
  const heard = [];
  for (let each = 0; each < 6; each += 1) heard.push(await second.messages.next());
  assert.deepEqual(heard.map(({ op, room, ack }) => [op, room ?? ack]), [
    ['join', 'a'], ['join', 'c'], ['online', 'none'], ['send', undefined], ['publish', 'a'], ['event', undefined],
  ]);
  assert.deepEqual(heard[3], lost, 'the same once more, with its id and its time');
  assert.equal(new Set(heard.map(({ id }) => id)).size, 6);
  for (const { id, ts } of heard) {
    assert.match(id, /^.{32,36}$/);
    assert.ok(Number.isInteger(ts) && ts >= before - 1_000 && ts <= Date.now());
  }
  // In another order than asked: each answer finds its question.
  second.reply(heard[5].id, { of: 'event' });
  second.reply(heard[4].id, { of: 'publish' });
  second.reply(heard[3].id, { message: 'm1', status: 'stored' });
  assert.deepEqual(await limited('answers', Promise.all([sent, ...later])), [{ ok: true, message: 'm1', status: 'stored' }, { ok: true, of: 'publish' }, { ok: true, of: 'event' }]);
  assert.equal(socket.pending, 0);
  await pause(QUIET_MS);
  assert.equal(second.messages.waiting, 0);
});

test('online that was not answered is asked once, not twice', async (t) => {
  const gateway = await Gateway.start(t);
  const told = client(t, gateway.url);
  const first = await gateway.visits.next();
  await told.socket.online();
  gateway.answer = () => undefined;
  const again = told.socket.online({ ack: 'none' });
  await first.messages.next();
  await first.messages.next();
  gateway.answer = () => ({});
  first.cut();
  const second = await gateway.visits.next();
  await limited('an answer', again);
  assert.equal((await second.messages.next()).ack, 'none');
  assert.equal(second.messages.waiting, 0);
});

test('a room that is refused after a reconnection is told of, and forgotten', async (t) => {
  const gateway = await Gateway.start(t);
  const told = client(t, gateway.url);
  const first = await gateway.visits.next();
  await Promise.all([told.socket.join('a'), told.socket.join('b')]);
  gateway.answer = ({ op, room }) => (op === 'join' && room === 'a' ? { ok: false, error: { code: 'forbidden', message: 'no grant' } } : {});
  first.cut();
  const { op, room, error } = await told.lost.next();
  assert.deepEqual([op, room, error.code, error.message], ['join', 'a', 'forbidden', 'no grant']);
  (await gateway.visits.next()).cut();
  const third = await gateway.visits.next();
  assert.equal((await third.messages.next()).room, 'b');
  await pause(QUIET_MS);
  assert.equal(third.messages.waiting, 0);
});

test('what the application asks in success comes after what is restored', async (t) => {
  const gateway = await Gateway.start(t);
  const told = client(t, gateway.url, { success: () => told.socket.publish('a', 'here I am') });
  const first = await gateway.visits.next();
  await told.socket.join('a');
  first.cut();
  const second = await gateway.visits.next();
  assert.deepEqual([(await second.messages.next()).op, (await second.messages.next()).op], ['join', 'publish']);
});
