// Asking, being answered, and being told.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isBase64 } from '../src/binary.js';
import { client, QUICK } from './lib/client.mjs';
import { Gateway } from './lib/gateway.mjs';
import { limited, pause, QUIET_MS, until } from './lib/wait.mjs';

/** A client that is connected, its gateway and its visit. */
async function connected(t, options = {}, settings = {}) {
  const gateway = await Gateway.start(t, settings);
  const told = client(t, gateway.url, options);
  const visit = await gateway.visits.next();
  await told.successes.next();
  return { ...told, gateway, visit };
}

test('each method says its operation, with an id and the time', async (t) => {
  const { socket, visit } = await connected(t);
  const asks = [
    [() => socket.join('r'), { op: 'join', room: 'r' }],
    [() => socket.leave('r'), { op: 'leave', room: 'r' }],
    [() => socket.publish('r', 1, { event: 'e', echo: true, volatile: true }), { op: 'publish', room: 'r', event: 'e', data: 1, echo: true, volatile: true }],
    [() => socket.publish('r'), { op: 'publish', room: 'r' }],
    [() => socket.broadcast(null), { op: 'broadcast', data: null }],
    [() => socket.send('bob', 'hi', { event: 'note' }), { op: 'send', to: 'bob', event: 'note', data: 'hi' }],
    [() => socket.online(), { op: 'online' }],
    [() => socket.presence({ users: ['ann'] }), { op: 'presence', users: ['ann'] }],
    [() => socket.presence(), { op: 'presence' }],
    [() => socket.heartbeat(), { op: 'heartbeat' }],
    [() => socket.emit('order', 1, undefined, 'x'), { op: 'event', event: 'order', args: [1, null, 'x'] }],
    [() => socket.request('later', { of: 2 }), { op: 'later', of: 2 }],
  ];
  for (const [ask, wanted] of asks) {
    assert.deepEqual(await limited('an answer', ask()), { ok: true });
    const { id, ts, ...said } = await visit.messages.next();
    assert.deepEqual(said, wanted);
    assert.equal(typeof id, 'string');
    assert.ok(Math.abs(Date.now() - ts) < 60_000);
  }
});

test('an id of one’s own is taken, but not twice at a time', async (t) => {
  const { socket, visit, gateway } = await connected(t);
  gateway.answer = () => undefined;
  const sent = socket.send('bob', 1, { id: 'n1' });
  await assert.rejects(socket.send('bob', 1, { id: 'n1' }), { code: 'bad_request' });
  assert.equal((await visit.messages.next()).id, 'n1');
  visit.reply('n1', { message: 'm', status: 'duplicate' });
  assert.deepEqual(await limited('an answer', sent), { ok: true, message: 'm', status: 'duplicate' });
});

test('a refusal rejects with its code', async (t) => {
  const { socket } = await connected(t, {}, { answer: () => ({ ok: false, error: { code: 'forbidden', message: 'no grant' } }) });
  await assert.rejects(socket.join('r'), { name: 'SocketError', code: 'forbidden', message: 'no grant' });
  assert.equal(socket.pending, 0);
});

test('what cannot be asked rejects at once', async (t) => {
  const { socket, visit } = await connected(t);
  const loop = {};
  loop.loop = loop;
  const refused = [
    () => socket.publish('r', loop), () => socket.publish('r', 1n), () => socket.request('connect'), () => socket.request('close'),
    () => socket.request('ack', { message: '1' }), () => socket.request(7), () => socket.request('join', { room: 'r', id: 7 }), () => socket.request('join', {}, { timeoutMs: 0 }),
  ];
  for (const ask of refused) await assert.rejects(ask(), { code: 'bad_request' });
  assert.equal(socket.pending, 0);
  await pause(QUIET_MS);
  assert.equal(visit.messages.waiting, 0);
});

test('a request with a time limit gives up, and its answer comes to nobody', async (t) => {
  const { socket, visit, gateway } = await connected(t);
  gateway.answer = () => undefined;
  await assert.rejects(socket.request('heartbeat', {}, { timeoutMs: 20 }), { code: 'timeout' });
  assert.equal(socket.pending, 0);
  const { id } = await visit.messages.next();
  visit.reply(id);
  gateway.answer = () => ({});
  await limited('the next answer', socket.heartbeat());
  visit.cut();
  const second = await gateway.visits.next();
  await pause(QUIET_MS);
  assert.equal(second.messages.waiting, 0, 'and it is not asked again');
});

test('a room that was joined after its time was up is left again, unless it was joined otherwise', async (t) => {
  const { socket, visit, gateway } = await connected(t);
  gateway.answer = () => undefined;
  const late = async (room) => {
    await assert.rejects(socket.request('join', { room }, { timeoutMs: 20 }), { code: 'timeout' });
    return (await visit.messages.next()).id;
  };
  visit.reply(await late('a'));
  const { op, room, id } = await visit.messages.next();
  assert.deepEqual([op, room], ['leave', 'a']);
  visit.reply(id);
  visit.reply(await late('refused'), { ok: false, error: { code: 'forbidden', message: 'no' } });
  const first = await late('b');
  const second = socket.join('b');
  visit.reply(first);
  visit.reply((await visit.messages.next()).id);
  await limited('an answer', second);
  visit.reply(await late('b'));
  await pause(QUIET_MS);
  assert.equal(visit.messages.waiting, 0);
  gateway.answer = () => ({});
  visit.cut();
  const next = await gateway.visits.next();
  assert.equal((await next.messages.next()).room, 'b');
  await pause(QUIET_MS);
  assert.equal(next.messages.waiting, 0);
});

test('a heartbeat is of one connection', async (t) => {
  const { socket, visit, gateway } = await connected(t);
  gateway.answer = () => undefined;
  const asked = socket.heartbeat();
  await visit.messages.next();
  visit.cut();
  await assert.rejects(limited('it rejects', asked), { name: 'SocketError', code: 'unavailable', message: /connection was lost/ });
  assert.equal(socket.pending, 0);
  await until('it waits', () => socket.status !== 'connected');
  gateway.answer = () => ({});
  const early = socket.heartbeat();
  const second = await gateway.visits.next();
  assert.equal((await limited('what was asked meanwhile is asked on the next', early)).ok, true);
  await second.messages.next();
  await pause(QUIET_MS);
  assert.equal(second.messages.waiting, 0, 'and the first one is not');
});

test('a request that is too large for a server rejects, and nothing else suffers', async (t) => {
  const gateway = await Gateway.start(t);
  const { socket, successes, messages } = client(t, gateway.url);
  await assert.rejects(socket.publish('r', 'x'.repeat(1_000_000)), { code: 'too_large' });
  const visit = await gateway.visits.next();
  await successes.next();
  await assert.rejects(socket.publish('r', 'ä'.repeat(500_000)), { code: 'too_large' });
  visit.send({ op: 'event', event: 'e', args: [], message: 7 });
  const { acknowledge } = await messages.next();
  assert.equal(acknowledge('x'.repeat(1_000_000)), false);
  assert.equal(acknowledge('got'), true);
  assert.deepEqual((await visit.messages.next()).args, ['got']);
  assert.equal((await limited('an answer', socket.publish('r', 'x'.repeat(990_000)))).ok, true);
  const small = client(t, gateway.url, { payloadBytesMax: 200 });
  await assert.rejects(small.socket.publish('r', 'x'.repeat(200)), { code: 'too_large' });
  assert.equal(small.socket.pending, 0);
});

test('a send that is too much for now is repeated, with those behind it, and holds up nothing else', async (t) => {
  let refusals = 0;
  const taken = [];
  const { socket } = await connected(t, {}, {
    answer({ op, data }) {
      if (op === 'send' && data === 'first' && refusals < 1) {
        refusals += 1;
        return { ok: false, error: { code: 'rate_limited', message: 'again in 1 s' } };
      }
      taken.push(data ?? op);
      return {};
    },
  });
  const first = socket.send('bob', 'first');
  await until('it is refused', () => refusals === 1);
  await limited('something else is answered', socket.publish('r', 'other'));
  const limit = socket.request('send', { to: 'bob', data: 'impatient' }, { timeoutMs: 30 });
  const others = [socket.send('bob', 'second'), socket.send('carl', 'third'), socket.publish('r', 'last')];
  await assert.rejects(limited('its time is up', limit), { code: 'timeout' });
  assert.equal(socket.pending, 3);
  await limited('all are taken', Promise.all([first, ...others]));
  assert.deepEqual(taken, ['other', 'last', 'first', 'second', 'third']);
});

test('more sends waited than a server takes at once: all of them arrive, in their order', async (t) => {
  const gateway = await Gateway.start(t);
  await gateway.stop();
  const { socket } = client(t, gateway.url, { reconnect: { attempts: Infinity, delayMs: 20, delayMaxMs: 20 } });
  const sends = Array.from({ length: 200 }, (_, number) => socket.send('bob', number));
  const other = socket.publish('r', 'other');
  const taken = [];
  let refusals = 0;
  let isLater = false;
  gateway.answer = ({ op, data }) => {
    if (op === 'send' && taken.length >= 120 && !isLater) {
      refusals += 1;
      return { ok: false, error: { code: 'rate_limited', message: 'again in 1 s' } };
    }
    if (op === 'send') taken.push(data);
    return {};
  };
  await gateway.listen();
  await limited('it is not held up', other);
  assert.equal(taken.length, 120);
  assert.ok(refusals <= 64, 'no more are tried than were on their way');
  isLater = true;
  await limited('all are taken', Promise.all(sends));
  assert.deepEqual(taken, [...taken.keys()]);
});

test('a send that waits to be repeated goes with the client, and to the next connection', async (t) => {
  const { socket, visit, gateway, successes } = await connected(t, {}, { answer: () => ({ ok: false, error: { code: 'rate_limited', message: 'later' } }) });
  const sent = [socket.send('bob', 1), socket.send('bob', 2)];
  await visit.messages.next();
  gateway.answer = () => ({});
  visit.cut();
  await gateway.visits.next();
  await successes.next();
  await limited('both are taken', Promise.all(sent), 900);
  gateway.answer = () => ({ ok: false, error: { code: 'rate_limited', message: 'later' } });
  const last = socket.send('bob', 3);
  await pause(QUIET_MS);
  socket.close();
  await assert.rejects(last, { code: 'closed' });
});

test('so many requests wait, and so many bytes of them', async (t) => {
  const gateway = await Gateway.start(t);
  await gateway.stop();
  const reconnect = { attempts: Infinity, delayMs: 20, delayMaxMs: 20 };
  const few = client(t, gateway.url, { queueMax: 3, reconnect });
  const asked = [1, 2, 3].map((number) => few.socket.publish('r', number));
  await assert.rejects(few.socket.publish('r', 4), { code: 'queue_full' });
  assert.equal(few.socket.pending, 3);
  const small = client(t, gateway.url, { queueBytesMax: 1_000, reconnect });
  asked.push(small.socket.publish('r', 'ä'.repeat(400)));
  await assert.rejects(small.socket.publish('r', 'x'.repeat(200)), { code: 'queue_full' });
  await gateway.listen();
  await limited('they are answered', Promise.all(asked));
  await limited('there is room again', Promise.all([few.socket.publish('r', 5), small.socket.publish('r', 'ä'.repeat(400))]));
});

test('many that waited go out a few at a time, and again where the server says that it was too much', async (t) => {
  const gateway = await Gateway.start(t);
  await gateway.stop();
  const { socket } = client(t, gateway.url, { reconnect: { attempts: Infinity, delayMs: 20, delayMaxMs: 20 } });
  const asked = Array.from({ length: 300 }, (_, number) => socket.publish('r', number));
  const taken = [];
  let unanswered = 0;
  let most = 0;
  let refusals = 0;
  gateway.answer = ({ id, data }, visit) => {
    unanswered += 1;
    most = Math.max(most, unanswered);
    setImmediate(() => {
      unanswered -= 1;
      if (data >= 150 && data < 153 && refusals < 3) {
        refusals += 1;
        return visit.reply(id, { ok: false, error: { code: 'rate_limited', message: 'slower' } });
      }
      taken.push(data);
      return visit.reply(id);
    });
  };
  await gateway.listen();
  await limited('all are answered', Promise.all(asked));
  assert.equal(refusals, 3);
  assert.equal(new Set(taken).size, 300);
  assert.deepEqual(taken.filter((data) => data >= 150 && data < 153), [150, 151, 152]);
  assert.ok(most <= 64, `${most} at once`);
});

test('a rate limit while connected is the application’s to know', async (t) => {
  const { socket } = await connected(t, {}, { answer: () => ({ ok: false, error: { code: 'rate_limited', message: 'slower' } }) });
  await assert.rejects(limited('it rejects', socket.publish('r', 1)), { code: 'rate_limited' });
});

test('messages come as they are on the wire, and each is acknowledged once', async (t) => {
  const { messages, visit } = await connected(t);
  const meta = { id: 'm2', from: 'ann', node: 'n1', ts: 1 };
  const wire = [
    [{ op: 'event', event: 'e', args: [1, null] }, undefined],
    [{ op: 'offline', id: 'm1', from: 'ann', event: 'note', data: 1, sent_at: 1 }, 'm1'],
    [{ op: 'offline_end', count: 1 }, undefined],
    [{ op: 'event', event: 'note', args: [2], meta, message: 'm2' }, 'm2'],
    [{ op: 'event', event: 9, args: [], message: 4 }, 4],
  ];
  for (const [message, due] of wire) {
    visit.send(message);
    const heard = await messages.next();
    assert.deepEqual(heard.message, message);
    assert.equal(heard.acknowledge('got', new Uint8Array([1])), due !== undefined);
    assert.equal(heard.acknowledge(), false);
    if (due !== undefined) assert.deepEqual(await visit.messages.next(), { op: 'ack', message: due, args: ['got', { $binary: 'AQ==' }] });
  }
  await pause(QUIET_MS);
  assert.equal(visit.messages.waiting, 0);
});

test('a late acknowledgement goes to the next connection, unless it belongs to the last', async (t) => {
  const { socket, messages, visit, gateway, successes } = await connected(t);
  visit.send({ op: 'offline', id: 'm1', from: 'ann', event: 'note', data: 1, sent_at: 1 });
  visit.send({ op: 'event', event: 'e', args: [], message: 7 });
  const [durable, own] = [await messages.next(), await messages.next()];
  visit.cut();
  await until('it is lost', () => socket.status !== 'connected');
  assert.deepEqual([own.acknowledge(), durable.acknowledge()], [false, false]);
  const second = await gateway.visits.next();
  await successes.next();
  assert.deepEqual([own.acknowledge(), durable.acknowledge(), durable.acknowledge()], [false, true, false]);
  assert.deepEqual(await second.messages.next(), { op: 'ack', message: 'm1' });
  assert.equal(socket.acknowledge('m2', 1), true);
  assert.deepEqual(await second.messages.next(), { op: 'ack', message: 'm2', args: [1] });
  socket.close();
  assert.equal(socket.acknowledge('m3'), false);
});

test('nothing is acknowledged where online asked for no acknowledgements', async (t) => {
  const { socket, messages, visit } = await connected(t);
  await socket.online({ ack: 'none' });
  await visit.messages.next();
  visit.send({ op: 'offline', id: 'm1', from: 'ann', event: 'note', data: 1, sent_at: 1 });
  assert.equal((await messages.next()).acknowledge(), false);
  await pause(QUIET_MS);
  assert.equal(visit.messages.waiting, 0);
});

test('bytes travel as bytes, dates as text, and what looks like bytes as it is', async (t) => {
  const { socket, messages, visit } = await connected(t);
  const bytes = new Uint8Array([0, 1, 2, 3]);
  const data = [bytes, bytes.buffer, Buffer.from('hi'), new Uint16Array([258]), new DataView(bytes.buffer, 1, 2), bytes.subarray(3), new Date(0), { $binary: 'AQID' }, { $binary: '?' }];
  await socket.publish('r', data);
  const said = await visit.messages.next();
  assert.deepEqual(said.data, [
    { $binary: 'AAECAw==' }, { $binary: 'AAECAw==' }, { $binary: 'aGk=' }, { $binary: 'AgE=' }, { $binary: 'AQI=' }, { $binary: 'Aw==' },
    '1970-01-01T00:00:00.000Z', { $binary: 'AQID' }, { $binary: '?' },
  ]);
  visit.send({ op: 'event', event: 'e', args: [{ deep: [{ $binary: 'AAECAw==' }], empty: { $binary: '' }, not: { $binary: 'AA==', more: 1 } }] });
  const [heard] = (await messages.next()).message.args;
  assert.deepEqual(heard, { deep: [bytes], empty: new Uint8Array(0), not: { $binary: 'AA==', more: 1 } });
  assert.ok(heard.deep[0] instanceof Uint8Array);
});

test('what is no base64 is no bytes', () => {
  for (const text of ['', 'AQ==', 'AQI=', 'AQID', '+/+/']) assert.ok(isBase64(text), text);
  for (const text of ['A', 'AQ', 'AQI', 'AQ=D', 'A===', '=', '====', 'AQ= =', 'AQ-_', 'AQI\n']) assert.ok(!isBase64(text), text);
});

test('megabytes of bytes survive the way', async (t) => {
  const { socket, messages, visit } = await connected(t, { queueBytesMax: 100_000_000, payloadBytesMax: 100_000_000 });
  const bytes = Uint8Array.from({ length: 10_000_000 }, (_, at) => (at * 31) % 251);
  await limited('an answer', socket.publish('r', bytes));
  const { data } = await visit.messages.next();
  assert.ok(Buffer.from(data.$binary, 'base64').equals(bytes));
  visit.send({ op: 'event', event: 'e', args: [data] });
  assert.ok(Buffer.from((await messages.next()).message.args[0]).equals(bytes));
});
