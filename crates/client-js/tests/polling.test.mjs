// Over long-polling: when it is gone over to, and that it means the same.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Fail } from '../src/index.js';
import { client, names, QUICK } from './lib/client.mjs';
import { Gateway } from './lib/gateway.mjs';
import { Poller } from './lib/poller.mjs';
import { limited, pause, QUIET_MS, until } from './lib/wait.mjs';

const POLLING = { transport: 'polling' };

class Blocked {
  static count = 0;

  constructor() {
    Blocked.count += 1;
    throw new Error('blocked');
  }
}

/** A client that is connected over long-polling, its server and its visit. */
async function connected(t, options = {}, settings = {}) {
  const poller = await Poller.start(t, settings);
  const told = client(t, poller.url, { ...POLLING, ...options });
  const visit = await poller.visits.next();
  await told.successes.next();
  return { ...told, poller, visit };
}

test('where no second try is allowed, a blocked WebSocket is gone around at once', async (t) => {
  const poller = await Poller.start(t);
  const told = client(t, poller.url, { allowReconnect: false, WebSocket: Blocked });
  assert.equal((await told.successes.next()).transport, 'polling');
  assert.equal(told.socket.transport, 'polling');
  assert.deepEqual(names(told), ['connecting', 'connected']);
});

test('a refused upgrade, silence and no WebSocket at all are gone around, too', async (t) => {
  const poller = await Poller.start(t);
  const refused = client(t, poller.url, { allowReconnect: false });
  const missing = client(t, poller.url, { allowReconnect: false, WebSocket: {} });
  const silent = await Gateway.start(t, { connect() {} });
  const pollingPath = `${poller.url}/socket.io/`;
  const unheard = client(t, silent.url, { allowReconnect: false, connectTimeoutMs: 300, pollingPath });
  for (const told of [refused, missing, unheard]) assert.equal((await told.successes.next()).transport, 'polling');
});

test('where tries are allowed it goes over only if told so, and stays there', async (t) => {
  Blocked.count = 0;
  const poller = await Poller.start(t);
  const plain = client(t, poller.url, { WebSocket: Blocked });
  assert.equal((await plain.failures.next()).code, Fail.UNREACHABLE);
  assert.equal(Blocked.count, 4);
  assert.equal(poller.count, 0);
  const always = client(t, poller.url, { WebSocket: Blocked, fallback: 'always' });
  await always.successes.next();
  poller.forget(await poller.visits.next());
  await poller.visits.next('it comes back');
  assert.equal((await always.successes.next()).reconnected, true);
  assert.equal(Blocked.count, 5);
});

test('what the server said over WebSocket is not gone around', async (t) => {
  for (const [code, reason, fail] of [[4401, 'unauthorized: no', Fail.REFUSED], [4503, 'unavailable: later', Fail.UNREACHABLE], [4409, 'duplicate_session: no', Fail.CLOSED]]) {
    const gateway = await Gateway.start(t, { connect: (visit) => visit.close(code, reason) });
    const told = client(t, gateway.url, { allowReconnect: false, fetch: () => assert.fail('no polling') });
    const found = await told.failures.next();
    assert.deepEqual([found.code, found.closeCode, found.error.code], [fail, code, reason.split(':')[0]]);
  }
});

test('2: if long-polling fails as well', async (t) => {
  const poller = await Poller.start(t, { refusal: 503 });
  const told = client(t, poller.url, { allowReconnect: false, WebSocket: Blocked });
  const found = await told.failures.next();
  assert.equal(found.code, Fail.UNREACHABLE);
  assert.match(found.error.message, /HTTP 503/);
  assert.equal(found.closeCode, undefined);
  const patient = client(t, poller.url, POLLING);
  assert.equal((await patient.failures.next()).code, Fail.UNREACHABLE);
  assert.equal(patient.statuses.length, 8, 'after three more tries');
});

test('requests are events, and acknowledgements their replies', async (t) => {
  const { socket, visit, poller } = await connected(t);
  const asks = [
    [() => socket.join('r'), '420["join",{"room":"r"}]', '430[{"ok":true}]', { ok: true }],
    [() => socket.publish('r', 1, { event: 'e' }), '421["publish",{"room":"r","event":"e","data":1}]', '431[{"ok":true,"id":"m1"}]', { ok: true, message: 'm1' }],
    [() => socket.send('bob', 'x', { id: 'n1' }), '422["send",{"to":"bob","data":"x","id":"n1"}]', '432[{"ok":true,"id":"m2","status":"live"}]', { ok: true, message: 'm2', status: 'live' }],
    [() => socket.emit('order', 1, null), '423["order",1,null]', '433[{"ok":true}]', { ok: true }],
    [() => socket.online({ ack: 'each' }), '424["online",{"ack":"each"}]', '434[{"ok":true}]', { ok: true }],
    [() => socket.heartbeat(), undefined, undefined, { ok: true, ts: 1 }],
    [() => socket.publish('r', [new Uint8Array([1, 2, 3]), { $binary: '?' }]), '451-6["publish",{"room":"r","data":[{"_placeholder":true,"num":0},{"$binary":"?"}]}]', '436[{"ok":true}]', { ok: true }],
  ];
  for (const [ask, wanted, answer, reply] of asks) {
    const answered = ask();
    if (wanted !== undefined) {
      assert.equal(await visit.packets.next(), wanted);
      visit.send(answer);
    }
    assert.deepEqual(await limited('an answer', answered), reply);
  }
  assert.equal(await visit.packets.next(), 'bAQID');
  const refused = socket.join('');
  await visit.packets.next();
  visit.send('437[{"ok":false,"error":{"code":"bad_request","message":"no room"}}]');
  await assert.rejects(limited('it rejects', refused), { code: 'bad_request', message: 'no room' });
  assert.equal(socket.pending, 0);
  assert.equal(poller.mostPosting, 1);
});

test('events are messages, and are acknowledged by their packets', async (t) => {
  const { messages, visit } = await connected(t);
  const meta = { id: 'm2', from: 'ann', node: 'n1', ts: 1 };
  const published = { ...meta, room: 'r' };
  const wire = [
    [[`42["e",1,${JSON.stringify(published)}]`], { op: 'event', event: 'e', args: [1], meta: published }],
    [['42["e",1,{"id":"x"}]'], { op: 'event', event: 'e', args: [1, { id: 'x' }] }],
    [['4212["e",1]'], { op: 'event', event: 'e', args: [1], message: 12 }, '4312["got"]'],
    [[`423["e",1,${JSON.stringify(meta)}]`], { op: 'event', event: 'e', args: [1], meta, message: 'm2' }, '433["got"]'],
    [['4214["offline_message",{"id":"m1","from":"ann","event":"note","data":1,"sent_at":2}]'], { op: 'offline', id: 'm1', from: 'ann', event: 'note', data: 1, sent_at: 2 }, '4314["got"]'],
    [['42["offline_message_ack",{"count":1}]'], { op: 'offline_end', count: 1 }],
    [['452-["e",[{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}]]', 'bAQ==', 'bAg=='], { op: 'event', event: 'e', args: [[new Uint8Array([2]), new Uint8Array([1])]] }],
    [['42["e",{"$binary":"AQ=="}]'], { op: 'event', event: 'e', args: [{ $binary: 'AQ==' }] }],
  ];
  for (const [packets, wanted, acknowledgement] of wire) {
    visit.send(...packets);
    const { message, acknowledge } = await messages.next();
    assert.deepEqual(message, wanted);
    acknowledge('got');
    acknowledge('again');
    if (acknowledgement !== undefined) assert.equal(await visit.packets.next(), acknowledgement);
  }
  visit.send('6', '42/other,["e"]', '2');
  assert.equal(await visit.packets.next(), '3');
  assert.equal(visit.packets.waiting + messages.waiting, 0);
});

test('a namespace and auth', async (t) => {
  let said;
  const { socket, visit, messages } = await connected(t, { namespace: '/chat', auth: () => ({ token: 't' }) }, {
    connect(each, packet) {
      said = packet;
      each.send('40/chat,{"sid":"socket-1"}');
    },
  });
  assert.equal(said, '40/chat,{"token":"t"}');
  assert.equal(socket.session, 'socket-1');
  socket.join('r');
  assert.equal(await visit.packets.next(), '42/chat,0["join",{"room":"r"}]');
  visit.send('42/chat,["e"]');
  assert.equal((await messages.next()).message.event, 'e');
  socket.close();
  assert.equal(await visit.packets.next(), '41/chat,');
  await limited('the connection ends', visit.ended);
});

for (const [code, fail] of [['unauthorized', Fail.REFUSED], ['token_expired', Fail.REFUSED], ['forbidden', Fail.REFUSED], ['duplicate_session', Fail.CLOSED], ['bad_request', Fail.UNEXPECTED], [undefined, Fail.UNEXPECTED]]) {
  test(`a CONNECT refused as ${code ?? 'an invalid namespace'} is ${fail}`, async (t) => {
    const data = code === undefined ? { message: 'Invalid namespace' } : { message: 'no', data: { code } };
    const poller = await Poller.start(t, { connect: (visit) => visit.send(`44${JSON.stringify(data)}`) });
    const found = await client(t, poller.url, POLLING).failures.next();
    assert.equal(found.code, fail);
    assert.equal(found.error.code, code ?? 'bad_request');
    assert.equal(poller.count, 1);
  });
}

test('a CONNECT refused as rate_limited or unavailable is tried again', async (t) => {
  for (const code of ['rate_limited', 'unavailable']) {
    const poller = await Poller.start(t, { connect: (visit) => visit.send(poller.count === 1 ? `44{"message":"no","data":{"code":"${code}"}}` : '40{"sid":"s"}') });
    await client(t, poller.url, POLLING).successes.next();
    assert.equal(poller.count, 2);
  }
});

for (const [reason, fail, closeCode] of [['replaced', Fail.CLOSED, 4409], ['kicked', Fail.CLOSED, 4410], ['expired', Fail.REFUSED, 4401]]) {
  test(`whoever is evicted as ${reason} stays away`, async (t) => {
    const { visit, failures, messages, poller } = await connected(t);
    visit.send(`42["evicted",{"reason":"${reason}"}]`, '41');
    assert.deepEqual((await messages.next()).message, { op: 'evicted', reason });
    const found = await failures.next();
    assert.deepEqual([found.code, found.closeCode], [fail, closeCode]);
    if (reason === 'expired') assert.equal(found.error.code, 'token_expired');
    await pause(QUIET_MS);
    assert.equal(poller.count, 1);
  });
}

test('a session that the server ends, or does not know any more, is come back from with what was not answered', async (t) => {
  const { socket, visit, successes, poller } = await connected(t);
  const joined = socket.join('r');
  await visit.packets.next();
  visit.send('430[{"ok":true}]');
  await limited('an answer', joined);
  const sent = socket.send('bob', 1, { id: 'n1' });
  await visit.packets.next();
  visit.send('1');
  const second = await poller.visits.next();
  assert.equal((await successes.next()).reconnected, true);
  assert.equal(await second.packets.next(), '420["join",{"room":"r"}]');
  assert.equal(await second.packets.next(), '421["send",{"to":"bob","data":1,"id":"n1"}]');
  second.send('431[{"ok":true,"id":"m1","status":"stored"}]');
  assert.equal((await limited('an answer', sent)).message, 'm1');
  poller.forget(second);
  socket.publish('r', 1);
  await poller.visits.next();
  await successes.next();
});

test('4: no answer to a heartbeat', async (t) => {
  const { failures } = await connected(t, { allowReconnect: false, heartbeatMs: 20, heartbeatTimeoutMs: 40 }, { answersPings: false });
  assert.equal((await failures.next()).code, Fail.HEARTBEAT);
  const { socket } = await connected(t, { allowReconnect: false, heartbeatMs: 20, heartbeatTimeoutMs: 1_000 });
  await pause(QUIET_MS);
  assert.equal(socket.status, 'connected');
});

test('1000: what the server sends is no packet', async (t) => {
  for (const packet of ['9', '4', '42{', '42["e"', 'bAQ==', '42{}', '451-["e",{"_placeholder":true,"num":0}]\x1eb?', '<html>']) {
    const { visit, failures } = await connected(t);
    visit.send(packet);
    const found = await failures.next(`a failure after ${packet}`);
    assert.equal(found.code, Fail.UNEXPECTED);
    assert.ok(found.error instanceof SyntaxError, packet);
  }
});

test('what only looks like a placeholder is a value like any other, whoever published it', async (t) => {
  const { socket, visit, messages } = await connected(t);
  for (const num of [1, -1, 0.5, '"0"', '"length"', '"constructor"', 'null']) {
    visit.send(`451-["e",{"_placeholder":true,"num":${num}},{"_placeholder":true,"num":0}]`, 'bAQ==');
    const { message } = await messages.next();
    assert.deepEqual(message.args, [{ _placeholder: true, num: JSON.parse(num) }, new Uint8Array([1])]);
  }
  visit.send('42["e",{"_placeholder":true,"num":0}]');
  assert.deepEqual((await messages.next()).message.args, [{ _placeholder: true, num: 0 }]);
  assert.equal(socket.status, 'connected');
});

test('an answer that comes slowly is no silence', async (t) => {
  const { socket, visit, messages } = await connected(t, { allowReconnect: false, heartbeatMs: 50, heartbeatTimeoutMs: 400 });
  await until('a poll is held', () => visit.isHeld);
  const text = 'ä'.repeat(100);
  await visit.trickle(Buffer.from(`42["e","${text}"]`), 30, 40);
  assert.deepEqual((await messages.next()).message.args, [text]);
  assert.equal(socket.status, 'connected');
});

test('a fetch whose answers are no streams will do', async (t) => {
  const { socket } = await connected(t, {
    async fetch(...args) {
      const response = await fetch(...args);
      return { status: response.status, text: () => response.text() };
    },
  });
  assert.equal((await limited('an answer', socket.heartbeat())).ok, true);
});

test('what is too large for the server is refused here, and much that is small goes in several requests', async (t) => {
  const { socket, visit, poller } = await connected(t, {}, { maxPayload: 1_000 });
  await assert.rejects(socket.publish('r', 'x'.repeat(1_000)), { code: 'too_large' });
  await assert.rejects(socket.publish('r', Array(11).fill(new Uint8Array(1))), { code: 'too_large' });
  const asked = Array.from({ length: 50 }, (_, number) => socket.publish('r', 'y'.repeat(200) + number));
  for (let each = 0; each < 50; each += 1) {
    const packet = await visit.packets.next();
    assert.match(packet, new RegExp(`y${each}"`));
    visit.send(`43${/^42(\d+)/.exec(packet)[1]}[{"ok":true}]`);
  }
  await limited('answers', Promise.all(asked));
  assert.equal(poller.mostPosting, 1);
});

test('what cannot be acknowledged so may be acknowledged otherwise', async (t) => {
  const { socket, visit, messages } = await connected(t, {}, { maxPayload: 1_000 });
  visit.send('4214["offline_message",{"id":"m1","from":"ann","event":"note","data":1,"sent_at":2}]');
  const { acknowledge } = await messages.next();
  assert.equal(acknowledge('x'.repeat(1_000)), false);
  assert.equal(acknowledge(Array(11).fill(new Uint8Array(1))), false);
  assert.equal(acknowledge('got'), true);
  assert.equal(await visit.packets.next(), '4314["got"]');
  assert.equal(acknowledge('again'), false);
  assert.equal(socket.acknowledge('m1'), false, 'it is settled');
  assert.equal(socket.acknowledge('m2'), false, 'it came on no connection of ours');
  assert.equal(socket.status, 'connected');
});

for (const [what, options, settings] of [
  ['no answer to a heartbeat', { heartbeatMs: 20, heartbeatTimeoutMs: 40 }, { answersPings: false }],
  ['no connection in time', { connectTimeoutMs: 100 }, { connect() {} }],
  ['a handshake that takes too long', { connectTimeoutMs: 30 }, { opened: () => pause(100) }],
]) {
  for (const allowReconnect of [true, false]) {
    test(`after ${what} the server is told of the end, ${allowReconnect ? 'before it comes back' : 'also if it does not come back'}`, async (t) => {
      const poller = await Poller.start(t, settings);
      const told = client(t, poller.url, { ...POLLING, allowReconnect, ...options });
      const visit = await poller.visits.next();
      await limited('the connection ends', visit.ended);
      if (allowReconnect) await poller.visits.next('it comes back');
      else await told.failures.next();
    });
  }
}

test('a server that ended the session is told nothing', async (t) => {
  const { visit, poller, successes } = await connected(t);
  visit.send('1');
  const second = await poller.visits.next();
  await successes.next();
  poller.sessions.delete(second.sid);
  second.send('6');
  await poller.visits.next();
  await successes.next();
  await pause(QUIET_MS);
  assert.equal(poller.sessions.has(visit.sid), true);
  assert.deepEqual(poller.strays, []);
});

test('close during the handshake ends the session that it opens, and waits for it a second at most', async (t) => {
  let open;
  const signals = [];
  const poller = await Poller.start(t, { opened: () => new Promise((resolve) => (open = resolve)) });
  const make = () => client(t, poller.url, { ...POLLING, fetch: (url, init) => signals.push(init.signal) && fetch(url, init) });
  const { socket } = make();
  const visit = await poller.visits.next();
  socket.close();
  open();
  await limited('the session ends', visit.ended);
  assert.equal(visit.connect, undefined);
  const other = make();
  await poller.visits.next();
  other.socket.close();
  await pause(QUIET_MS);
  assert.equal(signals.at(-1).aborted, false);
  await until('it is hung up on', () => signals.at(-1).aborted);
});

test('a server that was away at first is not polled for ever', async (t) => {
  const gateway = await Gateway.start(t);
  await gateway.stop();
  const told = client(t, gateway.url, { fallback: 'always', reconnect: { attempts: Infinity, delayMs: 20, delayMaxMs: 20 } });
  await until('both ways have failed', () => told.statuses.filter(([status]) => status === 'waiting').length >= 2);
  await gateway.listen();
  assert.equal((await told.successes.next()).transport, 'websocket');
});

test('after an expiry a fresh token is connected with, and a refusal of that is final', async (t) => {
  let calls = 0;
  const { visit, poller, successes, failures } = await connected(t, { auth: () => ({ token: `t${(calls += 1)}` }) });
  visit.send('42["evicted",{"reason":"expired"}]', '41');
  const second = await poller.visits.next();
  assert.equal((await successes.next()).reconnected, true);
  assert.deepEqual(JSON.parse(second.connect.slice(2)), { token: 't2', resumes: `socket-${visit.sid}` });
  assert.equal(visit.connect, '40{"token":"t1"}');
  poller.connect = (each) => each.send('44{"message":"no","data":{"code":"token_expired"}}');
  second.send('42["evicted",{"reason":"expired"}]', '41');
  const found = await failures.next();
  assert.deepEqual([found.code, found.closeCode, found.error.code], [Fail.REFUSED, 4401, 'token_expired']);
});

test('a room that was joined after its time was up is left again', async (t) => {
  const { socket, visit } = await connected(t);
  await assert.rejects(socket.request('join', { room: 'r' }, { timeoutMs: 20 }), { code: 'timeout' });
  assert.equal(await visit.packets.next(), '420["join",{"room":"r"}]');
  visit.send('430[{"ok":true}]');
  assert.equal(await visit.packets.next(), '421["leave",{"room":"r"}]');
});

test('close takes leave, and a server that is gone does not matter', async (t) => {
  const { socket, visit, poller } = await connected(t);
  socket.close();
  assert.equal(await visit.packets.next(), '41');
  await limited('the connection ends', visit.ended);
  const other = client(t, poller.url, { ...POLLING, reconnect: QUICK });
  await other.successes.next();
  await poller.stop();
  other.socket.close();
  await until('it is closed', () => other.socket.status === 'closed');
  assert.equal(other.failures.waiting, 0);
  poller.http.listen();
});

test('the goodbye comes behind what is on its way and before the poll is hung up on', async (t) => {
  const { socket, visit, poller } = await connected(t);
  await until('a poll is held', () => visit.isHeld);
  socket.publish('r', 1);
  await visit.packets.next('the publication');
  socket.close();
  await limited('the goodbye comes', visit.ended);
  assert.equal(visit.wasPolled, true);
  assert.equal(poller.mostPosting, 1);
  assert.equal(await visit.packets.next('the namespace is left'), '41');
});

test('who was sent away from the namespace ends the connection, too', async (t) => {
  const { visit, failures } = await connected(t);
  visit.send('42["evicted",{"reason":"kicked"}]', '41');
  assert.equal((await failures.next()).code, Fail.CLOSED);
  await limited('the connection ends', visit.ended);
});
