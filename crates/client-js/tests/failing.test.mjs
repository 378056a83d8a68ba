// How a client gives up.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Fail, Socket, SocketError } from '../src/index.js';
import { client, names } from './lib/client.mjs';
import { Gateway } from './lib/gateway.mjs';
import { limited, pause, QUIET_MS } from './lib/wait.mjs';

const ONCE = { allowReconnect: false, fallback: false };

/** The failure of `told`; that there is no second one; and that nothing else is heard. */
async function failure(told) {
  const found = await told.failures.next('it fails');
  assert.equal(told.socket.status, 'closed');
  assert.deepEqual(told.statuses.at(-1), ['closed', found]);
  const { length } = told.statuses;
  await pause(QUIET_MS);
  assert.equal(told.failures.waiting, 0);
  assert.equal(told.statuses.length, length);
  return found;
}

test('the codes are what they are, and cannot be changed', () => {
  assert.deepEqual({ ...Fail }, { UNSUPPORTED: 1, UNREACHABLE: 2, REFUSED: 3, HEARTBEAT: 4, CLOSED: 5, UNEXPECTED: 1000 });
  assert.ok(Object.isFrozen(Fail));
});

test('1: without a WebSocket, and nothing to fall back on', async (t) => {
  const told = client(t, 'ws://127.0.0.1:9/', { WebSocket: {} });
  assert.equal(told.socket.status, 'connecting', 'nobody is called back before the constructor is through');
  assert.equal((await failure(told)).code, Fail.UNSUPPORTED);
  const bare = client(t, 'ws://127.0.0.1:9/', { transport: 'polling', fetch: 'none' });
  assert.equal((await failure(bare)).code, Fail.UNSUPPORTED);
});

test('2: nobody is there, and no second try is allowed', async (t) => {
  const gateway = await Gateway.start(t);
  await gateway.stop();
  const told = client(t, gateway.url, ONCE);
  const found = await failure(told);
  assert.equal(found.code, Fail.UNREACHABLE);
  assert.equal(found.closeCode, 1006);
  assert.ok(found.error instanceof Error);
  assert.deepEqual(names(told), ['connecting', 'closed']);
  await gateway.listen();
});

test('2: nobody is there, at none of the tries', async (t) => {
  const gateway = await Gateway.start(t);
  await gateway.stop();
  const told = client(t, gateway.url);
  assert.equal((await failure(told)).code, Fail.UNREACHABLE);
  const again = ['waiting', 'connecting'];
  assert.deepEqual(names(told), ['connecting', ...again, ...again, ...again, 'closed']);
  const waits = told.statuses.filter(([status]) => status === 'waiting').map(([, { attempt, delayMs }]) => [attempt, delayMs]);
  assert.deepEqual(waits, [[1, 10], [2, 10], [3, 10]]);
  await gateway.listen();
});

test('2: the server takes the connection and says nothing', async (t) => {
  const gateway = await Gateway.start(t, { connect() {} });
  const told = client(t, gateway.url, { ...ONCE, connectTimeoutMs: 30 });
  assert.equal((await failure(told)).code, Fail.UNREACHABLE);
  assert.equal(gateway.live, 0);
});

test('2: auth throws, or gives what cannot be encoded, or nothing at all', async (t) => {
  const gateway = await Gateway.start(t);
  const mistake = new Error('no token');
  const threw = client(t, gateway.url, { ...ONCE, auth: async () => { throw mistake; } });
  assert.deepEqual(await failure(threw), { code: Fail.UNREACHABLE, message: 'auth threw', error: mistake });
  const big = client(t, gateway.url, { ...ONCE, auth: { token: 1n } });
  assert.equal((await failure(big)).code, Fail.UNREACHABLE);
  const never = client(t, gateway.url, { ...ONCE, auth: () => new Promise(() => {}), connectTimeoutMs: 20 });
  assert.equal((await failure(never)).code, Fail.UNREACHABLE);
  assert.equal(gateway.count, 0);
});

for (const [code, reason] of [[4401, 'unauthorized: no token'], [4401, 'token_expired: since noon'], [4403, 'forbidden: not here']]) {
  test(`3: ${reason}`, async (t) => {
    const gateway = await Gateway.start(t, { connect: (visit) => visit.close(code, reason) });
    const found = await failure(client(t, gateway.url));
    assert.equal(found.code, Fail.REFUSED);
    assert.equal(found.closeCode, code);
    assert.ok(found.error instanceof SocketError);
    assert.equal(found.error.code, reason.split(':')[0]);
    assert.equal(gateway.count, 1, 'it does not come back');
  });
}

test('3: a session that expires', async (t) => {
  const gateway = await Gateway.start(t);
  const told = client(t, gateway.url);
  const visit = await gateway.visits.next();
  await told.successes.next();
  visit.send({ op: 'evicted', reason: 'expired' });
  assert.equal((await told.messages.next()).message.reason, 'expired');
  visit.close(4401, 'token_expired');
  const found = await failure(told);
  assert.deepEqual([found.code, found.closeCode, found.error.code], [Fail.REFUSED, 4401, 'token_expired']);
  const once = client(t, gateway.url, { ...ONCE, auth: () => ({ token: 't' }), heartbeatTimeoutMs: 30 });
  await once.successes.next();
  (await gateway.visits.next()).send({ op: 'evicted', reason: 'expired' });
  const silent = await failure(once);
  assert.deepEqual([silent.code, silent.error.code], [Fail.REFUSED, 'token_expired'], 'also if its end does not come');
});

test('4: no answer to a heartbeat, and no second try is allowed', async (t) => {
  const gateway = await Gateway.start(t, { answersPings: false });
  const told = client(t, gateway.url, { ...ONCE, heartbeatMs: 20, heartbeatTimeoutMs: 40 });
  await told.successes.next();
  const found = await failure(told);
  assert.equal(found.code, Fail.HEARTBEAT);
  assert.equal(found.closeCode, undefined);
  assert.equal(gateway.live, 0);
});

test('4: the server heard nothing', async (t) => {
  const gateway = await Gateway.start(t, { connect: (visit) => visit.close(4408, '') });
  assert.equal((await failure(client(t, gateway.url, ONCE))).code, Fail.HEARTBEAT);
});

test('a lost heartbeat is come back from, and ends in 2 if that does not work', async (t) => {
  const gateway = await Gateway.start(t, { answersPings: false });
  const told = client(t, gateway.url, { heartbeatMs: 20, heartbeatTimeoutMs: 40 });
  await told.successes.next();
  assert.equal((await told.successes.next()).reconnected, true);
  await gateway.stop();
  assert.equal((await failure(told)).code, Fail.UNREACHABLE);
  await gateway.listen();
});

test('anything that comes in time is an answer to a heartbeat', async (t) => {
  const gateway = await Gateway.start(t, { answersPings: false });
  const told = client(t, gateway.url, { ...ONCE, heartbeatMs: 20, heartbeatTimeoutMs: 500 });
  const visit = await gateway.visits.next();
  await told.successes.next();
  const timer = setInterval(() => visit.send({ op: 'offline_end', count: 0 }), 10);
  await pause(700);
  clearInterval(timer);
  assert.equal(told.socket.status, 'connected');
  assert.ok(visit.pings > 1);
});

for (const [code, reason] of [[4409, 'replaced'], [4409, 'duplicate_session: on n2'], [4410, 'kicked'], [1000, '']]) {
  test(`5: closed with ${code} ${reason}`, async (t) => {
    const gateway = await Gateway.start(t);
    const told = client(t, gateway.url);
    const visit = await gateway.visits.next();
    await told.successes.next();
    visit.close(code, reason);
    const found = await failure(told);
    assert.equal(found.code, Fail.CLOSED);
    assert.equal(found.closeCode, code);
    assert.equal(gateway.count, 1, 'it does not come back');
  });
}

test('5: lost, and no second try is allowed', async (t) => {
  const gateway = await Gateway.start(t);
  const told = client(t, gateway.url, { allowReconnect: false });
  const visit = await gateway.visits.next();
  await told.successes.next();
  visit.cut();
  const found = await failure(told);
  assert.equal(found.code, Fail.CLOSED);
  assert.equal(told.socket.transport, 'websocket', 'only a first connection falls back');
});

for (const ending of ['4409', 'a cut cable', 'nothing']) {
  test(`5: whoever was displaced stays away, after ${ending}`, async (t) => {
    const gateway = await Gateway.start(t);
    const told = client(t, gateway.url, { heartbeatTimeoutMs: 30 });
    const visit = await gateway.visits.next();
    await told.successes.next();
    visit.send({ op: 'evicted', reason: 'replaced', by: { device: 'laptop', node: 'n2', ts: 1 } });
    assert.equal((await told.messages.next()).message.by.device, 'laptop');
    if (ending === '4409') visit.close(4409, 'replaced');
    if (ending === 'a cut cable') visit.cut();
    const found = await failure(told);
    assert.equal(found.code, Fail.CLOSED);
    assert.equal(found.message, ending === 'a cut cable' ? found.message : 'replaced');
    assert.equal(gateway.count, 1);
  });
}

for (const [what, frame] of [
  ['no JSON', 'hello'],
  ['no object', '[]'],
  ['no op', '{}'],
  ['bytes', Buffer.from('{"op":"offline_end","count":1}')],
  ['a reply without ok', '{"op":"reply","id":"1"}'],
  ['an event without arguments', '{"op":"event","event":"x"}'],
]) {
  test(`1000: the server sends ${what}`, async (t) => {
    const gateway = await Gateway.start(t);
    const told = client(t, gateway.url);
    const visit = await gateway.visits.next();
    await told.successes.next();
    visit.socket.send(frame);
    const found = await failure(told);
    assert.equal(found.code, Fail.UNEXPECTED);
    assert.ok(found.error instanceof SyntaxError);
    assert.equal(gateway.live, 0);
  });
}

for (const code of [4400, 1002, 1007, 1009]) {
  test(`1000: closed with ${code}`, async (t) => {
    const gateway = await Gateway.start(t, { connect: (visit) => visit.close(code, 'bad_request: no such namespace') });
    const found = await failure(client(t, gateway.url));
    assert.equal(found.code, Fail.UNEXPECTED);
    assert.equal(found.closeCode, code);
  });
}

test('what the application throws is its own, and the client goes on', async (t) => {
  const reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  t.after(() => delete globalThis.reportError);
  const gateway = await Gateway.start(t);
  const told = client(t, gateway.url, {
    success() {
      throw new Error('in success');
    },
    onMessage() {
      throw new Error('in onMessage');
    },
  });
  const visit = await gateway.visits.next();
  await told.successes.next();
  visit.send({ op: 'event', event: 'x', args: [] });
  assert.equal((await limited('an answer', told.socket.join('lobby'))).ok, true);
  assert.deepEqual(reported, ['in success', 'in onMessage']);
  assert.equal(told.socket.status, 'connected');
});

test('an operation that nobody knows yet is ignored', async (t) => {
  const gateway = await Gateway.start(t);
  const told = client(t, gateway.url);
  const visit = await gateway.visits.next();
  await told.successes.next();
  visit.send({ op: 'from_the_future', of: 1 });
  await limited('an answer', told.socket.join('lobby'));
  assert.equal(told.messages.waiting, 0);
});

test('requests of a client that has given up reject with its code', async (t) => {
  const gateway = await Gateway.start(t, { connect: (visit) => visit.close(4401, 'unauthorized: no token') });
  const told = client(t, gateway.url);
  const early = told.socket.join('lobby');
  const wanted = { name: 'SocketError', code: 'closed', fail: Fail.REFUSED };
  await assert.rejects(limited('it rejects', early), wanted);
  await assert.rejects(told.socket.join('lobby'), wanted);
  assert.equal(told.socket.pending, 0);
});

test('close is final: nothing is called, nothing is left', async (t) => {
  const gateway = await Gateway.start(t);
  const told = client(t, gateway.url);
  const visit = await gateway.visits.next();
  await told.successes.next();
  gateway.answer = () => undefined;
  const asked = told.socket.join('lobby');
  told.socket.close();
  told.socket.close();
  await assert.rejects(asked, { code: 'closed' });
  await assert.rejects(asked, (error) => !('fail' in error));
  assert.equal(await limited('the server is told', visit.ended), 1000);
  assert.deepEqual(told.statuses.at(-1), ['closed']);
  assert.equal(told.failures.waiting, 0);
});

test('addresses and options that cannot be are refused at once', () => {
  const refused = [
    ['/ws', {}], ['ftp://example.org', {}], ['http://', {}],
    ['ws://example.org', { transport: 'pigeon' }], ['ws://example.org', { fallback: 'never' }],
    ['ws://example.org', { heartbeatMs: 0 }], ['ws://example.org', { queueMax: 0 }], ['ws://example.org', { queueMax: 1.5 }],
    ['ws://example.org', { reconnect: { attempts: -1 } }], ['ws://example.org', { reconnect: { jitter: 2 } }],
    ['ws://example.org', { connectTimeoutMs: 2 ** 31 }], ['ws://example.org', { queueBytesMax: Infinity }],
    ['ws://example.org', { payloadBytesMax: 0 }], ['ws://example.org', { reconnect: { delayMs: 5_000, delayMaxMs: 1_000 } }],
    ['ws://example.org', { success: 'yes' }], ['ws://example.org', { namespace: 'chat' }],
  ];
  for (const [url, options] of refused) {
    assert.throws(() => new Socket(url, options), (error) => error instanceof TypeError || error instanceof RangeError, JSON.stringify([url, options]));
  }
});
