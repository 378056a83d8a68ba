// The official client on every transport, with its default options first.

import assert from 'node:assert/strict';
import { test } from '../lib/test.mjs';
import { stageOf } from '../lib/stage.mjs';
import { startSubject } from '../lib/subject.mjs';
import { freePort } from '../lib/ports.mjs';
import { limited, until } from '../lib/wait.mjs';
import { address, request } from '../lib/wire.mjs';
import { ask, client, connect, connected, inbox, once, POLLING, transport, upgraded, WEBSOCKET } from '../lib/client.mjs';

const KINDS = { polling: POLLING, websocket: WEBSOCKET };
const SOCKET_ID = /^[A-Za-z0-9_-]{20}$/;

test('default options: connects by polling, then upgrades', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  const socket = client(stage, subject.url);
  const opened = once(socket.io, 'open').then(() => transport(socket));
  await connected(socket);
  assert.equal(await opened, 'polling');
  await upgraded(socket);
  assert.equal(transport(socket), 'websocket');
  assert.match(socket.id, SOCKET_ID);
  assert.notEqual(socket.io.engine.id, socket.id, 'the Engine.IO id is a secret, the socket id is public');
  assert.equal((await ask(socket, 'heartbeat')).ok, true);
});

for (const [kind, options] of Object.entries(KINDS)) {
  test(`${kind} only: stays there and works`, async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const socket = await connect(stage, subject.url, options);
    const heard = inbox(socket);
    assert.deepEqual((await ask(socket, 'join', 'r')).ok, true);
    await ask(socket, 'publish', { room: 'r', data: 'mine', echo: true });
    assert.equal((await heard.next())[0], 'mine');
    assert.equal(transport(socket), kind);
  });

  test(`${kind}: 500 acknowledgements in flight each find their caller`, async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const socket = await connect(stage, subject.url, options);
    const acks = await Promise.all(Array.from({ length: 500 }, (_, i) => ask(socket, 'publish', { room: `nobody-${i}`, data: i })));
    assert.ok(acks.every((ack) => ack.ok === true));
    assert.equal(new Set(acks.map((ack) => ack.id)).size, 500);
  });

  test(`${kind}: a payload of 300,000 characters goes up and comes down whole`, async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const [publisher, member] = await Promise.all([connect(stage, subject.url, options), connect(stage, subject.url, options)]);
    const heard = inbox(member);
    await ask(member, 'join', 'big');
    const data = { text: 'aé€😀'.repeat(75_000), last: true };
    assert.equal((await ask(publisher, 'publish', { room: 'big', data })).ok, true);
    assert.deepEqual((await heard.next())[0], data);
    assert.equal((await ask(publisher, 'heartbeat')).ok, true);
  });

  test(`${kind}: binary goes up and comes down`, async (t) => {
    const stage = stageOf(t);
    const subject = await startSubject(stage);
    const [publisher, member] = await Promise.all([connect(stage, subject.url, options), connect(stage, subject.url, options)]);
    const heard = inbox(member);
    await ask(member, 'join', 'b');
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    const data = { first: bytes, deep: [{ second: Buffer.alloc(70_000, 7) }], empty: Buffer.alloc(0), plain: 1 };
    assert.equal((await ask(publisher, 'publish', { room: 'b', data })).ok, true);
    assert.deepEqual((await heard.next())[0], data);
  });
}

test('binary over base64 polling', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  const socket = await connect(stage, subject.url, { ...POLLING, forceBase64: true });
  const heard = inbox(socket);
  await ask(socket, 'join', 'b');
  await ask(socket, 'publish', { room: 'b', data: Buffer.from([0, 255, 30, 98]), echo: true });
  assert.deepEqual((await heard.next())[0], Buffer.from([0, 255, 30, 98]));
});

test('a polling-only client and a WebSocket client share a room', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  const poller = await connect(stage, subject.url, POLLING);
  const streamer = await connect(stage, subject.url, WEBSOCKET);
  const [atPoller, atStreamer] = [inbox(poller), inbox(streamer)];
  await Promise.all([ask(poller, 'join', 'shared'), ask(streamer, 'join', 'shared')]);
  for (let i = 0; i < 50; i += 1) {
    poller.emit('publish', { room: 'shared', data: `p${i}` });
    streamer.emit('publish', { room: 'shared', data: `w${i}` });
  }
  for (let i = 0; i < 50; i += 1) {
    assert.equal((await atStreamer.next())[0], `p${i}`);
    assert.equal((await atPoller.next())[0], `w${i}`);
  }
  await Promise.all([ask(poller, 'heartbeat'), ask(streamer, 'heartbeat')]);
  assert.equal(atPoller.waiting + atStreamer.waiting, 0, 'a sender does not get its own message');
});

test('nothing is lost or reordered while a member upgrades', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  const publisher = await connect(stage, subject.url, WEBSOCKET);
  const member = client(stage, subject.url);
  const heard = inbox(member);
  await connected(member);
  const isUpgraded = upgraded(member);
  await ask(member, 'join', 'moving');
  let sent = 0;
  let over = false;
  isUpgraded.then(() => (over = true));
  while (!over || sent < 300) {
    assert.ok(sent < 20_000, 'the member never upgraded');
    await ask(publisher, 'publish', { room: 'moving', data: sent });
    sent += 1;
  }
  for (let i = 0; i < sent; i += 1) assert.equal((await heard.next(`message ${i} of ${sent}`))[0], i);
});

test('what a client emits before it is connected arrives in order', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  const socket = client(stage, subject.url);
  const heard = inbox(socket);
  socket.emit('join', 'early');
  for (let i = 0; i < 100; i += 1) socket.emit('publish', { room: 'early', data: i, echo: true });
  for (let i = 0; i < 100; i += 1) assert.equal((await heard.next())[0], i);
});

test('after a restart of the server clients come back by themselves, with a new id', async (t) => {
  const stage = stageOf(t);
  const port = await freePort();
  const first = await startSubject(stage, { port });
  const quick = { reconnectionDelay: 50, reconnectionDelayMax: 200 };
  const sockets = await Promise.all([POLLING, WEBSOCKET].map((kind) => connect(stage, first.url, { ...kind, ...quick })));
  const ids = sockets.map((socket) => socket.id);
  const reasons = sockets.map((socket) => once(socket, 'disconnect', 10_000));
  await first.stop();
  for (const [reason] of await Promise.all(reasons)) assert.ok(['transport close', 'transport error'].includes(reason), reason);
  await startSubject(stage, { port });
  await Promise.all(sockets.map((socket) => connected(socket, 15_000).catch(() => connected(socket, 15_000))));
  for (const [i, socket] of sockets.entries()) {
    await until('the client is back', () => socket.connected, 15_000);
    assert.notEqual(socket.id, ids[i]);
    assert.ok(!socket.recovered);
    assert.equal((await ask(socket, 'join', 'again')).ok, true);
  }
});

test('namespaces share one transport and keep their rooms apart', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  const root = await connect(stage, subject.url, WEBSOCKET);
  const chat = root.io.socket('/chat');
  const odd = root.io.socket('/chat?x=1');
  await Promise.all([connected(chat), connected(odd)]);
  assert.equal(chat.io.engine, root.io.engine);
  assert.equal(new Set([root.id, chat.id, odd.id]).size, 3, 'each namespace gives an id of its own');

  const inboxes = [root, chat, odd].map((socket) => inbox(socket));
  await Promise.all([root, chat, odd].map((socket) => ask(socket, 'join', 'same')));
  await ask(chat, 'publish', { room: 'same', data: 'for chat', echo: true });
  assert.equal((await inboxes[1].next())[0], 'for chat');
  await Promise.all([root, odd].map((socket) => ask(socket, 'heartbeat')));
  assert.equal(inboxes[0].waiting + inboxes[2].waiting, 0);

  chat.disconnect();
  await until('the server saw the namespace go', async () => (await subject.disconnects('client namespace disconnect')) >= 1);
  assert.equal((await ask(root, 'heartbeat')).ok, true);
  assert.equal((await ask(odd, 'heartbeat')).ok, true);

  const old = chat.id;
  chat.connect();
  await connected(chat);
  assert.notEqual(chat.id, old);
});

test('a client that disconnects: reasons on both sides, and its rooms are left', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  const other = await connect(stage, subject.url, WEBSOCKET);
  for (const [kind, options] of Object.entries(KINDS)) {
    const leaving = await connect(stage, subject.url, options);
    await ask(leaving, 'join', 'r');
    const before = await subject.disconnects('client namespace disconnect');
    const gone = once(leaving, 'disconnect');
    leaving.disconnect();
    assert.equal((await gone)[0], 'io client disconnect');
    await until(`${kind}: counted`, async () => (await subject.disconnects('client namespace disconnect')) === before + 1);
    assert.equal((await ask(other, 'publish', { room: 'r', data: 1 })).ok, true);
  }
});

test('a client whose engine closes: transport close on the server', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  for (const [kind, options] of Object.entries(KINDS)) {
    const socket = await connect(stage, subject.url, { ...options, reconnection: false });
    const before = await subject.disconnects('transport close');
    const gone = once(socket, 'disconnect');
    socket.io.engine.close();
    assert.equal((await gone)[0], 'forced close');
    await until(`${kind}: counted`, async () => (await subject.disconnects('transport close')) === before + 1);
  }
});

test('a client that asks for retries gets its acknowledgement once', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage);
  const socket = await connect(stage, subject.url, { ...WEBSOCKET, retries: 3, ackTimeout: 2_000 });
  const answer = await limited('the retried event is acknowledged', new Promise((resolve) => socket.emit('heartbeat', 1, (...args) => resolve(args))));
  assert.equal(answer[0], null);
  assert.equal(answer[1].ok, true);
});

test('engine.path is where the client asks', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage, { settings: { engine: { path: '/live/' } } });
  const socket = await connect(stage, subject.url, { path: '/live/' });
  assert.equal((await ask(socket, 'heartbeat')).ok, true);
  assert.equal((await request(`${subject.url}/socket.io/?EIO=4&transport=polling`)).status, 404);
});

test('engine.transports: one that is off is refused', async (t) => {
  const stage = stageOf(t);
  const subject = await startSubject(stage, { settings: { engine: { transports: ['websocket'] } } });
  const answer = await request(address(subject.url, { transport: 'polling' }));
  assert.equal(answer.status, 400);
  assert.deepEqual(JSON.parse(answer.body), { code: 0, message: 'Transport unknown' });
  const socket = await connect(stage, subject.url, WEBSOCKET);
  assert.equal((await ask(socket, 'heartbeat')).ok, true);
});
