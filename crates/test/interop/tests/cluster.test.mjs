// Several nodes: in one process over the memory broker, and as processes over Redis.

import assert from 'node:assert/strict';
import { describe, test } from '../lib/test.mjs';
import { stageOf } from '../lib/stage.mjs';
import { IS_STOCK, startSubject, TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { startRedis } from '../lib/redis.mjs';
import { ask, client, connect, connected, inbox, MESSAGE_PACK, once, POLLING, upgraded, WEBSOCKET } from '../lib/client.mjs';
import { until } from '../lib/wait.mjs';

const MESSAGES = 2_000;

/** Two processes on one Redis. */
async function overRedis(stage) {
  const redis = await startRedis(stage);
  const nodes = await Promise.all([startSubject(stage, { redis }), startSubject(stage, { redis })]);
  return { redis, urls: nodes.map(({ url }) => url), nodes };
}

/** Three nodes in one process. */
async function inOneProcess(stage) {
  const subject = await startTidegate(stage, { nodes: 3 });
  return { urls: subject.urls, nodes: [subject] };
}

/** The same, meeting over Redis. */
async function inOneProcessOverRedis(stage) {
  const redis = await startRedis(stage);
  const subject = await startTidegate(stage, { nodes: 3, redis });
  return { urls: subject.urls, nodes: [subject] };
}

/** The stock adapter subscribes nobody in time for an acknowledgement across nodes; wait until a message arrives. */
async function warm(member, publisher, room) {
  if (!IS_STOCK) return;
  let arrived = false;
  member.once('warm', () => (arrived = true));
  await until('the stock cluster carries messages', async () => {
    await ask(publisher, 'publish', { room, event: 'warm', data: 0 });
    return arrived;
  });
}

const CLUSTERS = { 'two processes over Redis': overRedis, ...(IS_STOCK ? {} : { 'three nodes in one process': inOneProcess, 'three nodes in one process over Redis': inOneProcessOverRedis }) };

for (const [name, build] of Object.entries(CLUSTERS)) {
  describe(name, () => {
    test(`default clients: ${MESSAGES} messages from one publisher arrive on the other node, in order, none lost`, async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const publisher = await connect(stage, urls[0]);
      const member = await connect(stage, urls.at(-1));
      await Promise.all([upgraded(publisher), upgraded(member)]);
      const heard = inbox(member);
      assert.equal((await ask(member, 'join', 'r')).ok, true);
      await warm(member, publisher, 'r');
      const acks = [];
      for (let i = 0; i < MESSAGES; i += 1) acks.push(ask(publisher, 'publish', { room: 'r', data: i }));
      assert.ok((await Promise.all(acks)).every(({ ok }) => ok === true));
      for (let i = 0; i < MESSAGES; i += 1) assert.equal((await heard.next(`message ${i}`))[0], i);
      await ask(member, 'heartbeat');
      assert.equal(heard.waiting, 0, 'none came twice');
    });

    test('a member gets what is published right after its join was acknowledged', { skip: TIDEGATE_ONLY }, async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const publisher = await connect(stage, urls[0], WEBSOCKET);
      const member = await connect(stage, urls[1], WEBSOCKET);
      for (let i = 0; i < 100; i += 1) {
        const arrived = once(member, `event ${i}`, 2_000);
        await ask(member, 'join', `room ${i}`);
        await ask(publisher, 'publish', { room: `room ${i}`, event: `event ${i}`, data: i });
        assert.equal((await arrived)[0], i);
      }
    });

    test('members of both nodes see the messages of one publisher in one order', async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const publisher = await connect(stage, urls[0], WEBSOCKET);
      const members = await Promise.all(urls.flatMap((url) => [WEBSOCKET, POLLING].map((options) => connect(stage, url, options))));
      const inboxes = members.map((member) => inbox(member));
      await Promise.all(members.map((member) => ask(member, 'join', 'both')));
      for (const member of members) await warm(member, publisher, 'both');
      for (let i = 0; i < 300; i += 1) publisher.emit('publish', { room: 'both', data: i });
      for (const heard of inboxes) for (let i = 0; i < 300; i += 1) assert.equal((await heard.next())[0], i);
    });

    test('rooms and namespaces are kept apart between nodes', async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const publisher = await connect(stage, urls[0], WEBSOCKET);
      const publisherInChat = publisher.io.socket('/chat');
      const member = await connect(stage, urls[1], WEBSOCKET);
      const memberInChat = member.io.socket('/chat');
      await Promise.all([connected(publisherInChat), connected(memberInChat)]);
      const [atRoot, atChat] = [inbox(member), inbox(memberInChat)];
      await Promise.all([ask(member, 'join', 'a'), ask(memberInChat, 'join', 'a')]);
      await warm(member, publisher, 'a');
      await warm(memberInChat, publisherInChat, 'a');
      await ask(publisher, 'publish', { room: 'b', data: 'wrong room' });
      await ask(publisher, 'publish', { room: 'a', data: 'root' });
      await ask(publisherInChat, 'publish', { room: 'a', data: 'chat' });
      assert.equal((await atRoot.next())[0], 'root');
      assert.equal((await atChat.next())[0], 'chat');
      await ask(publisherInChat, 'broadcast', { data: 'all of chat' });
      assert.equal((await atChat.next())[0], 'all of chat');
      await ask(publisher, 'broadcast', { data: 'all of root' });
      assert.equal((await atRoot.next())[0], 'all of root');
      assert.equal(atRoot.waiting + atChat.waiting, 0);
    });

    test('a message says which node it came from; the sender is left out on its own node too', { skip: TIDEGATE_ONLY }, async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const [a, b] = [await connect(stage, urls[0], WEBSOCKET), await connect(stage, urls[1], WEBSOCKET)];
      const [atA, atB] = [inbox(a), inbox(b)];
      await Promise.all([ask(a, 'join', 'r'), ask(b, 'join', 'r')]);
      await ask(a, 'publish', { room: 'r', data: 'from a' });
      await ask(b, 'publish', { room: 'r', data: 'from b' });
      const [, metaOfA] = await atB.next();
      const [data, metaOfB] = await atA.next();
      assert.equal(data, 'from b');
      assert.notEqual(metaOfA.node, metaOfB.node);
    });

    test('binary crosses nodes between a default client and a MessagePack client', { skip: TIDEGATE_ONLY }, async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const text = await connect(stage, urls[0], {});
      const packed = await connect(stage, urls[1], MESSAGE_PACK);
      const [atText, atPacked] = [inbox(text), inbox(packed)];
      await Promise.all([ask(text, 'join', 'r'), ask(packed, 'join', 'r')]);
      const data = { bytes: Buffer.from([0, 1, 254, 255]), list: [Buffer.alloc(300, 1)], text: 'é' };
      await ask(text, 'publish', { room: 'r', data });
      assert.deepEqual((await atPacked.next())[0], data);
      await ask(packed, 'publish', { room: 'r', data });
      assert.deepEqual((await atText.next())[0], data);
    });

    test('room names are names: no character in them is special', { skip: TIDEGATE_ONLY }, async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const publisher = await connect(stage, urls[0], WEBSOCKET);
      const rooms = ['a', 'ab', 'a*', '*', '?', '[ab]', 'a#b', '#', '\\', 'a b', ' ', '日本😀', '{tag}', 'a\nb', '\u0000', 'constructor', '__proto__'];
      const members = await Promise.all(rooms.map(() => connect(stage, urls[1], WEBSOCKET)));
      const inboxes = members.map((member) => inbox(member));
      for (const [i, member] of members.entries()) assert.equal((await ask(member, 'join', rooms[i])).ok, true, rooms[i]);
      for (const room of rooms) assert.equal((await ask(publisher, 'publish', { room, data: room })).ok, true, room);
      await ask(publisher, 'broadcast', { data: 'fence' });
      for (const [i, heard] of inboxes.entries()) {
        const [got, meta] = await heard.next(`room ${rooms[i]}`);
        assert.equal(got, rooms[i]);
        assert.equal(meta.room, rooms[i]);
        assert.equal((await heard.next())[0], 'fence');
      }
    });

    test('a room and a namespace that share a channel do not share their messages', { skip: TIDEGATE_ONLY }, async (t) => {
      // Room `b` of `/a` and the whole of `/a#b` both travel on `socket.io#/a#b#`.
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const [publisher, member] = [await connect(stage, urls[0], WEBSOCKET), await connect(stage, urls[1], WEBSOCKET)];
      const [pa, pab, ma, mab] = [publisher.io.socket('/a'), publisher.io.socket('/a#b'), member.io.socket('/a'), member.io.socket('/a#b')];
      await Promise.all([pa, pab, ma, mab].map((socket) => connected(socket)));
      const [atA, atAb] = [inbox(ma), inbox(mab)];
      await ask(ma, 'join', 'b');
      for (let i = 0; i < 3; i += 1) {
        await ask(pa, 'publish', { room: 'b', data: 'room' });
        await ask(pab, 'broadcast', { data: 'namespace' });
        assert.equal((await atA.next())[0], 'room');
        assert.equal((await atAb.next())[0], 'namespace');
      }
      assert.equal(atA.waiting + atAb.waiting, 0);
    });

    test('a thousand rooms, each with a member of its own', { skip: TIDEGATE_ONLY }, async (t) => {
      const stage = stageOf(t);
      const { urls } = await build(stage);
      const publisher = await connect(stage, urls[0], WEBSOCKET);
      const members = await Promise.all(Array.from({ length: 10 }, () => connect(stage, urls[1], WEBSOCKET)));
      const inboxes = members.map((member) => inbox(member));
      await Promise.all(members.flatMap((member, m) => Array.from({ length: 100 }, (_, r) => ask(member, 'join', `${m}/${r}`))));
      for (let r = 0; r < 100; r += 1) for (let m = 0; m < 10; m += 1) publisher.emit('publish', { room: `${m}/${r}`, data: [m, r] });
      for (const [m, heard] of inboxes.entries()) for (let r = 0; r < 100; r += 1) assert.deepEqual((await heard.next())[0], [m, r]);
    });
  });
}

describe('interest in Redis', { skip: TIDEGATE_ONLY }, () => {
  test('one exact channel a room, there before the ack of join and gone after the last leave; no patterns', async (t) => {
    const stage = stageOf(t);
    const { urls, redis } = await overRedis(stage);
    const look = await redis.client(stage);
    const channels = () => look.sendCommand(['PUBSUB', 'CHANNELS', 'socket.io#*']);
    const has = async (room) => (await channels()).includes(`socket.io#/#${room}#`);
    const [first, second] = await Promise.all([connect(stage, urls[0], WEBSOCKET), connect(stage, urls[0], WEBSOCKET)]);
    assert.ok((await channels()).includes('socket.io#/#'), 'the namespace itself');

    await ask(first, 'join', 'interest');
    assert.ok(await has('interest'));
    await ask(second, 'join', 'interest');
    await ask(first, 'leave', 'interest');
    assert.ok(await has('interest'), 'one member is left');
    await ask(second, 'leave', 'interest');
    await until('the channel is gone', async () => !(await has('interest')));

    await ask(first, 'join', 'dropped');
    first.disconnect();
    await until('the channel of a room goes with its last member', async () => !(await has('dropped')));
    assert.equal(await look.sendCommand(['PUBSUB', 'NUMPAT']), 0);
  });

  test('a room nobody on a node holds costs that node nothing', async (t) => {
    const stage = stageOf(t);
    const { urls, redis } = await overRedis(stage);
    const look = await redis.client(stage);
    const member = await connect(stage, urls[1], WEBSOCKET);
    await connect(stage, urls[0], WEBSOCKET);
    await ask(member, 'join', 'only here');
    const [, count] = await look.sendCommand(['PUBSUB', 'NUMSUB', 'socket.io#/#only here#']);
    assert.equal(Number(count), 1);
  });

  // Names may hold the `#` that ends them, so that two topics can travel on one channel. A topic is `[namespace, room]`,
  // or a namespace alone.
  const SHARED = {
    'rooms of two namespaces': [['/a', 'b#c'], ['/a#b', 'c']],
    'a room and a namespace': [['/x', 'y'], ['/x#y']],
  };
  for (const [name, pair] of Object.entries(SHARED)) {
    for (const [leaving, staying] of [pair, [...pair].reverse()]) {
      test(`${name} on one channel: when ${leaving.join(' ')} is left, ${staying.join(' ')} is still heard`, async (t) => {
        const stage = stageOf(t);
        const { urls, redis } = await overRedis(stage);
        const look = await redis.client(stage);
        const subscribers = async (channel) => Number((await look.sendCommand(['PUBSUB', 'NUMSUB', channel]))[1]);
        const [publisher, member] = [await connect(stage, urls[0], WEBSOCKET), await connect(stage, urls[1], WEBSOCKET)];
        const [source, goes, stays] = [publisher.io.socket(staying[0]), member.io.socket(leaving[0]), member.io.socket(staying[0])];
        await Promise.all([source, goes, stays].map((socket) => connected(socket)));
        const heard = inbox(stays);
        const [, room] = staying;
        const send = (data) => (room === undefined ? ask(source, 'broadcast', { data }) : ask(source, 'publish', { room, data }));

        if (room !== undefined) await ask(stays, 'join', room);
        if (leaving[1] !== undefined) await ask(goes, 'join', leaving[1]);
        await ask(member, 'join', 'marker');
        assert.equal(await subscribers('socket.io#/#marker#'), 1);
        await send('before');
        assert.equal((await heard.next())[0], 'before');

        if (leaving[1] === undefined) goes.disconnect();
        else await ask(goes, 'leave', leaving[1]);
        // A node gives up subscriptions some time after the last member left, in the order of leaving: when the marker
        // is gone from Redis, what was left before it has been dealt with.
        await ask(member, 'leave', 'marker');
        await until('the marker is unsubscribed', async () => (await subscribers('socket.io#/#marker#')) === 0);
        await send('after');
        assert.equal((await heard.next())[0], 'after');

        // And the channel goes with the last topic on it.
        source.disconnect();
        if (room === undefined) stays.disconnect();
        else await ask(stays, 'leave', room);
        await until('the channel is gone', async () => (await subscribers(`socket.io#${staying.join('#')}#`)) === 0);
      });
    }
  }

  test('redis.adapter_prefix names the channels', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const subject = await startTidegate(stage, { redis, settings: { redis: { adapter_prefix: 'other' } } });
    const look = await redis.client(stage);
    const member = await connect(stage, subject.url, WEBSOCKET);
    await ask(member, 'join', 'r');
    assert.ok((await look.sendCommand(['PUBSUB', 'CHANNELS'])).includes('other#/#r#'));
    assert.deepEqual(await look.sendCommand(['PUBSUB', 'CHANNELS', 'socket.io*']), []);
  });

  test('join and leave in quick turns end as the last one says', async (t) => {
    const stage = stageOf(t);
    const { urls } = await overRedis(stage);
    const [publisher, member] = [await connect(stage, urls[0], WEBSOCKET), await connect(stage, urls[1], WEBSOCKET)];
    const heard = inbox(member);
    for (let i = 0; i < 200; i += 1) {
      member.emit('join', 'flap');
      member.emit('leave', 'flap');
    }
    await ask(member, 'join', 'flap');
    await ask(publisher, 'publish', { room: 'flap', data: 'in' });
    assert.equal((await heard.next())[0], 'in');
    for (let i = 0; i < 200; i += 1) {
      member.emit('leave', 'flap');
      member.emit('join', 'flap');
    }
    await ask(member, 'leave', 'flap');
    await ask(publisher, 'publish', { room: 'flap', data: 'out' });
    await ask(member, 'join', 'fence');
    await ask(publisher, 'publish', { room: 'fence', data: 'fence' });
    assert.equal((await heard.next())[0], 'fence');
  });
});

test('a client may join nodes that came up in either order', { skip: TIDEGATE_ONLY }, async (t) => {
  const stage = stageOf(t);
  const redis = await startRedis(stage);
  const first = await startTidegate(stage, { redis });
  const member = client(stage, first.url, WEBSOCKET);
  const heard = inbox(member);
  await ask(member, 'join', 'r');
  const second = await startTidegate(stage, { redis });
  const publisher = await connect(stage, second.url, WEBSOCKET);
  await ask(publisher, 'publish', { room: 'r', data: 'hello' });
  assert.equal((await heard.next())[0], 'hello');
});
