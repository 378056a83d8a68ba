// Durable messages, judged by official clients: what is promised, what is delivered, in which shape, and what is refused.

import assert from 'node:assert/strict';
import { describe, test } from '../lib/test.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { run, startTidegate } from '../lib/tidegate.mjs';
import { startRedis } from '../lib/redis.mjs';
import { Api } from '../lib/api.mjs';
import { ask, client, connect, connected, MESSAGE_PACK, POLLING, WEBSOCKET } from '../lib/client.mjs';
import { Inbox, until, WITHIN_MS } from '../lib/wait.mjs';

const IDS = ['gw-0', 'gw-1'];
const CLIENTS = {
  'by WebSocket': WEBSOCKET,
  'by polling': POLLING,
  'with default options': {},
  'by WebSocket, with MessagePack': { ...WEBSOCKET, ...MESSAGE_PACK },
  'by polling, with MessagePack': { ...POLLING, ...MESSAGE_PACK },
};

async function processes(stage, { settings, config, redis, durable } = {}) {
  redis ??= await startRedis(stage, { durable });
  const nodes = await Promise.all(IDS.map((nodeId) => startTidegate(stage, { redis, settings, config, nodeId })));
  return { redis, nodes, urls: nodes.map(({ url }) => url), apis: await Promise.all(nodes.map(({ admin }) => Api.of(admin))) };
}

async function oneProcess(stage, { settings, config } = {}) {
  const node = await startTidegate(stage, { nodes: 2, settings, config, nodeId: 'gw' });
  return { nodes: [node], urls: node.urls, apis: await Promise.all(node.admins.map((admin) => Api.of(admin))) };
}

/** Keeps everything that comes, each with the function that acknowledges it. */
function listen(socket) {
  socket.mail = new Inbox();
  for (const event of ['offline_message', 'offline_message_ack', 'message', 'note', 'evicted']) {
    socket.on(event, (...args) => socket.mail.push({ event, args: args.filter((each) => typeof each !== 'function'), ack: args.find((each) => typeof each === 'function') }));
  }
  return socket;
}

const enter = async (stage, url, user, options = WEBSOCKET, device = 'phone') => listen(await connect(stage, url, { ...options, auth: { user, device } }));

async function online(socket, argument = {}) {
  assert.deepEqual(await ask(socket, 'online', argument), { ok: true });
  return socket;
}

async function send(socket, to, data, more = {}) {
  const answer = await ask(socket, 'send', { to, data, ...more });
  assert.equal(answer.ok, true, JSON.stringify(answer));
  assert.deepEqual(Object.keys(answer).sort(), ['id', 'ok', 'status']);
  return answer;
}

async function refusal(socket, argument) {
  const answer = await ask(socket, 'send', argument);
  assert.equal(answer.ok, false, JSON.stringify(answer));
  return answer.error;
}

async function assertCaughtUp(socket, count) {
  assert.deepEqual((({ event, args, ack }) => ({ event, args, ack }))(await socket.mail.next('the end of the backlog')), { event: 'offline_message_ack', args: [{ count }], ack: undefined });
}

/** The next thing must be this message of the backlog; returns what acknowledges it. */
async function assertWaited(socket, { id, from, event = 'message', data }) {
  const next = await socket.mail.next(`message ${id}`);
  assert.equal(next.event, 'offline_message');
  assert.deepEqual(next.args, [{ id, from, event, data, sent_at: Number(id.split('-')[0]) }]);
  return next.ack;
}

/** The next thing must be this message, live. */
async function assertLive(socket, { id, from, event = 'message', data, node }) {
  const next = await socket.mail.next(`message ${id}`);
  assert.equal(next.event, event);
  assert.deepEqual(next.args, [data, { id, from, node, ts: Number(id.split('-')[0]) }]);
  return next.ack;
}

const waiting = async (api, user) => (await api.get('/users/{user}', { user })).offline;
const untilNothingWaits = (api, user) => until(`nothing waits for ${user}`, async () => (await waiting(api, user)).count === 0);

for (const [name, build] of Object.entries({ 'two processes over Redis': processes, 'two nodes in one process': oneProcess })) {
  describe(`durable messages: ${name}`, { skip: TIDEGATE_ONLY, concurrency: 2 }, () => {
    for (const [how, options] of Object.entries(CLIENTS)) {
      test(`what was missed comes in order, then what comes: ${how}`, async (t) => {
        const stage = stageOf(t);
        const { urls, apis } = await build(stage);
        const ann = await enter(stage, urls[0], 'ann');
        const sent = [];
        for (const [number, event] of [[0, undefined], [1, 'note'], [2, 'note']]) {
          const data = { number, text: 'é😀', bytes: Buffer.from([1, 2, 3]) };
          const { id, status } = await send(ann, 'bob', data, event ? { event } : {});
          assert.equal(status, 'stored');
          sent.push({ id, from: 'ann', event, data });
        }
        assert.equal((await waiting(apis[1], 'bob')).count, 3);
        const bob = await enter(stage, urls[1], 'bob', options);
        await online(bob, { ack: 'each' });
        for (const each of sent) (await assertWaited(bob, each))();
        await assertCaughtUp(bob, 3);
        await untilNothingWaits(apis[0], 'bob');
        const { id, status } = await send(ann, 'bob', 'now', { event: 'note' });
        assert.equal(status, 'live');
        (await assertLive(bob, { id, from: 'ann', event: 'note', data: 'now', node: IDS[0] }))();
        assert.equal((await ask(bob, 'heartbeat', {})).ok, true);
        assert.deepEqual(await waiting(apis[0], 'bob'), { count: 0, bytes: 0 });
      });
    }

    test('what is not acknowledged comes again, on any node; what is, does not', async (t) => {
      const stage = stageOf(t);
      const { urls, apis } = await build(stage);
      const ann = await enter(stage, urls[0], 'ann');
      const first = { from: 'ann', data: 1, ...(await send(ann, 'bob', 1)) };
      const second = { from: 'ann', data: 2, ...(await send(ann, 'bob', 2)) };
      const old = await online(await enter(stage, urls[0], 'bob'));
      (await assertWaited(old, first))();
      await assertWaited(old, second);
      await assertCaughtUp(old, 2);
      assert.equal((await ask(old, 'heartbeat', {})).ok, true);
      old.disconnect();
      const young = await online(await enter(stage, urls[1], 'bob'));
      (await assertWaited(young, second))();
      await assertCaughtUp(young, 1);
      await untilNothingWaits(apis[0], 'bob');
    });

    test('an idempotency key stores once', async (t) => {
      const stage = stageOf(t);
      const { urls, apis } = await build(stage);
      const [ann, eve] = [await enter(stage, urls[0], 'ann'), await enter(stage, urls[1], 'eve')];
      const first = await send(ann, 'bob', 1, { id: 'k' });
      assert.deepEqual(await send(ann, 'bob', 'other', { id: 'k' }), { ok: true, id: first.id, status: 'duplicate' });
      assert.equal((await send(eve, 'bob', 2, { id: 'k' })).status, 'stored');
      assert.equal((await send(ann, 'carl', 3, { id: 'k' })).status, 'stored');
      assert.equal((await waiting(apis[0], 'bob')).count, 2);
    });

    test('a sender has its minute on all nodes together, and slows nobody else', async (t) => {
      const stage = stageOf(t);
      const { urls, nodes } = await build(stage, { settings: { offline: { sender_per_minute_max: 6 } } });
      const anns = [await enter(stage, urls[0], 'ann'), await enter(stage, urls[1], 'ann', WEBSOCKET, 'desk')];
      const eve = await enter(stage, urls[1], 'eve');
      for (let number = 0; number < 6; number += 1) await send(anns[number % 2], `user ${number}`, number);
      for (const ann of anns) {
        const { code, message } = await refusal(ann, { to: 'bob', data: 7 });
        assert.equal(code, 'rate_limited');
        assert.match(message, /6 messages a minute \(offline\.sender_per_minute_max\); again in \d+ s/);
      }
      await send(eve, 'bob', 1);
      assert.equal(await nodes[0].metric('tidegate_offline_rejected_total', { code: 'rate_limited' }), 1);
    });

    test('a kick leaves the inbox alone', async (t) => {
      const stage = stageOf(t);
      const { urls, apis } = await build(stage);
      const ann = await enter(stage, urls[0], 'ann');
      const bob = await online(await enter(stage, urls[1], 'bob'));
      await assertCaughtUp(bob, 0);
      assert.deepEqual(await apis[0].delete('/users/{user}/sessions', { user: 'bob' }), { evicted: 1 });
      assert.equal((await bob.mail.next('the kick')).event, 'evicted');
      assert.equal((await send(ann, 'bob', 1)).status, 'stored');
      assert.equal((await waiting(apis[1], 'bob')).count, 1);
    });
  });
}

describe('durable messages by HTTP', { skip: TIDEGATE_ONLY, concurrency: 2 }, () => {
  test('are sent, counted and deleted', async (t) => {
    const stage = stageOf(t);
    const { urls, apis } = await processes(stage);
    assert.deepEqual(await waiting(apis[0], 'bob'), { count: 0, bytes: 0 });
    const posted = await apis[0].post('/users/{user}/messages', { user: 'bob', event: 'note', data: { a: [1, null, 'x'] }, id: 'k' });
    assert.equal(posted.status, 'stored');
    assert.deepEqual(await apis[1].post('/users/{user}/messages', { user: 'bob', event: 'note', data: 2, id: 'k' }), { id: posted.id, status: 'duplicate' });
    const bare = await apis[1].post('/users/{user}/messages', { user: 'bob', event: 'note' });
    const there = await waiting(apis[1], 'bob');
    assert.equal(there.count, 2);
    assert.ok(there.bytes > 0);
    const bob = await online(await enter(stage, urls[1], 'bob'));
    await assertWaited(bob, { id: posted.id, from: null, event: 'note', data: { a: [1, null, 'x'] } });
    await assertWaited(bob, { id: bare.id, from: null, event: 'note', data: null });
    await assertCaughtUp(bob, 2);
    assert.deepEqual(await apis[0].delete('/users/{user}/messages', { user: 'bob' }), { deleted: 2 });
    assert.deepEqual(await waiting(apis[0], 'bob'), { count: 0, bytes: 0 });
    const live = await apis[0].post('/users/{user}/messages', { user: 'bob', event: 'note', data: 'now' });
    assert.equal(live.status, 'live');
    (await assertLive(bob, { id: live.id, from: null, event: 'note', data: 'now', node: IDS[0] }))();
    await untilNothingWaits(apis[1], 'bob');
  });

  test('expire', async (t) => {
    const stage = stageOf(t);
    const { urls, apis, nodes } = await processes(stage);
    await apis[0].post('/users/{user}/messages', { user: 'bob', event: 'note', data: 'brief', ttl_ms: 200 });
    const kept = await apis[0].post('/users/{user}/messages', { user: 'bob', event: 'note', data: 'kept', ttl_ms: 60_000 });
    await until('the brief one is gone', async () => (await waiting(apis[0], 'bob')).count === 1);
    assert.equal(await nodes[0].metric('tidegate_offline_expired_total'), 1);
    const bob = await online(await enter(stage, urls[1], 'bob'));
    await assertWaited(bob, { id: kept.id, from: null, event: 'note', data: 'kept' });
    await assertCaughtUp(bob, 1);
  });

  test('are refused with the field and the limit', async (t) => {
    const stage = stageOf(t);
    const config = '[namespaces."/"]\n[namespaces."/off"]\noffline.enabled = false\n';
    const settings = { offline: { messages_max: 2, message_bytes_max: 100 } };
    const node = await startTidegate(stage, { config, settings });
    const api = await Api.of(node.admin);
    const post = (words) => api.call('post', '/users/{user}/messages', { user: 'bob', ...words });
    for (const [words, status, code, detail] of [
      [{}, 400, 'bad_request', /event/],
      [{ event: 'connect' }, 400, 'bad_request', /"connect" is reserved/],
      [{ event: 'e', data: 'x'.repeat(101) }, 413, 'too_large', /offline\.message_bytes_max/],
      [{ event: 'e', namespace: '/off' }, 404, 'not_enabled', /offline\.enabled/],
      [{ event: 'e', namespace: '/none' }, 404, 'not_found', /namespace/],
    ]) {
      const answer = await post(words);
      assert.deepEqual([answer.status, answer.body.code], [status, code]);
      assert.match(answer.body.detail, detail);
    }
    await post({ event: 'e' });
    await post({ event: 'e' });
    const full = await post({ event: 'e' });
    assert.deepEqual([full.status, full.body.code], [507, 'offline_full']);
    assert.match(full.body.detail, /2 messages \(offline\.messages_max\)/);
  });
});

describe('what durable messages promise', { skip: TIDEGATE_ONLY, concurrency: 2 }, () => {
  test('of a full inbox the 1,001st is refused, and the 1,000 are delivered', async (t) => {
    const stage = stageOf(t);
    const { urls, nodes } = await processes(stage, { settings: { offline: { sender_per_minute_max: 0 } } });
    const ann = await enter(stage, urls[0], 'ann');
    const sent = [];
    for (let from = 0; from < 1_000; from += 100) {
      const batch = Array.from({ length: 100 }, (_, i) => from + i);
      // Side by side, and still in the order in which they were emitted.
      sent.push(...(await Promise.all(batch.map((number) => send(ann, 'bob', number)))).map(({ id }, i) => ({ id, from: 'ann', data: from + i })));
    }
    const { code, message } = await refusal(ann, { to: 'bob', data: 1_000 });
    assert.equal(code, 'offline_full');
    assert.match(message, /1000 messages \(offline\.messages_max\)/);
    assert.equal(await nodes[0].metric('tidegate_offline_rejected_total', { code: 'offline_full' }), 1);
    const bob = await online(await enter(stage, urls[1], 'bob'));
    for (const each of sent) (await assertWaited(bob, each))();
    await assertCaughtUp(bob, 1_000);
    await until('there is room', async () => (await ask(ann, 'send', { to: 'bob', data: 1_000 })).ok);
    await until('all are settled', async () => (await nodes[1].metric('tidegate_offline_acknowledged_total')) === 1_000);
  });

  const absences = {
    killed: { leave: (redis) => redis.kill(), come: (redis) => redis.start() },
    frozen: { leave: (redis) => redis.freeze(), come: (redis) => redis.thaw() },
  };
  for (const [how, { leave, come }] of Object.entries(absences)) {
    test(`while Redis is ${how} the answer is unavailable in time, and all goes on without a restart`, async (t) => {
      const stage = stageOf(t);
      const settings = { redis: { command_timeout_ms: 700 } };
      const { redis, urls, apis, nodes } = await processes(stage, { settings, durable: true });
      const ann = await enter(stage, urls[0], 'ann');
      const bob = await online(await enter(stage, urls[1], 'bob'));
      await assertCaughtUp(bob, 0);
      (await assertLive(bob, { ...(await send(ann, 'bob', 0)), from: 'ann', data: 0, node: IDS[0] }))();
      assert.equal((await ask(bob, 'heartbeat', {})).ok, true);
      await leave(redis);
      const began = performance.now();
      const [answer, posted] = await Promise.all([ask(ann, 'send', { to: 'bob', data: 1, id: 'k' }), apis[0].call('post', '/users/{user}/messages', { user: 'bob', event: 'note' })]);
      assert.deepEqual([answer.ok, answer.error.code], [false, 'unavailable']);
      assert.deepEqual([posted.status, posted.body.code], [503, 'unavailable']);
      // What its timeout allows, and a busy machine.
      assert.ok(performance.now() - began < 2_500, 'nobody waits for long');
      assert.equal((await ask(ann, 'online', {})).error.code, 'unavailable');
      await come(redis);
      for (const node of nodes) await until('it is ready', async () => (await node.status('/readyz')).status === 200, 10_000);
      // Whether the first one was stored, nobody knew; there is one all the same.
      // As whoever hears unavailable does: until it is taken.
      const again = await until('it is sent again', async () => {
        const repeated = await ask(ann, 'send', { to: 'bob', data: 1, id: 'k' });
        return repeated.ok ? repeated : assert.equal(repeated.error.code, 'unavailable');
      });
      let next = await bob.mail.next('what was sent again', 10_000);
      // What came by HTTP has no key, and a frozen Redis may have got it.
      for (; next.event === 'note'; next = await bob.mail.next('what was sent again', 10_000)) next.ack();
      assert.deepEqual([next.event, next.args[0], next.args[1].id], ['message', 1, again.id]);
      next.ack();
      await until('nothing else waits', async () => {
        for (const { event, ack } of bob.mail.drain()) {
          assert.equal(event, 'note');
          ack();
        }
        return (await waiting(apis[1], 'bob')).count === 0;
      });
    });
  }

  test('a session that Redis has lost is put back when it is missed, and told what came meanwhile', async (t) => {
    const stage = stageOf(t);
    const { redis, urls, apis } = await processes(stage);
    const ann = await enter(stage, urls[0], 'ann');
    const looked = await redis.client(stage);
    const misses = {
      'it sends': async (bob) => assert.equal((await send(bob, 'ann', 'x')).status, 'stored'),
      'it says online': (bob) => online(bob),
      'it acknowledges': async (bob, ack) => {
        ack();
        assert.equal((await ask(bob, 'heartbeat', {})).ok, true);
      },
    };
    for (const [how, miss] of Object.entries(misses)) {
      const user = `who, when ${how}`;
      const bob = await online(await enter(stage, urls[1], user));
      await assertCaughtUp(bob, 0);
      const first = await send(ann, user, 'first');
      const ack = await assertLive(bob, { ...first, from: 'ann', data: 'first', node: IDS[0] });
      assert.equal(await looked.hDel(`tidegate:{/|${user}}:sessions`, bob.id), 1);
      const missed = await send(ann, user, 'missed');
      assert.equal(missed.status, 'stored');
      await miss(bob, ack);
      ack();
      // As what is live, or as backlog where it has begun a new round.
      await until(`what was missed comes, when ${how}`, async () => {
        const { args, ack: acknowledge } = await bob.mail.next();
        acknowledge?.();
        return [args[0].id, args[1]?.id].includes(missed.id);
      });
      assert.equal((await ask(bob, 'heartbeat', {})).ok, true);
      bob.mail.drain().forEach(({ ack: acknowledge }) => acknowledge?.());
      assert.equal((await send(ann, user, 'later')).status, 'live');
      await until('what came later comes', async () => {
        const { args, ack: acknowledge } = await bob.mail.next();
        acknowledge?.();
        return args[0] === 'later';
      });
      await untilNothingWaits(apis[0], user);
    }
  });

  test('with wait_replicas nothing is ok that the replica does not have', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    const replica = await startRedis(stage, { master: redis });
    const settings = { offline: { wait_replicas: 1 }, redis: { command_timeout_ms: 1_000 } };
    const { urls, apis } = await processes(stage, { redis, settings });
    const looked = await replica.client(stage);
    await until('the replica follows', async () => (await looked.info('replication')).includes('master_link_status:up'));
    const ann = await enter(stage, urls[0], 'ann');
    const first = await send(ann, 'bob', 1, { id: 'k' });
    assert.equal(first.status, 'stored');
    assert.equal(await looked.xLen('tidegate:{/|bob}:inbox'), 1);
    assert.equal((await send(ann, 'bob', 1, { id: 'k' })).status, 'duplicate');
    replica.freeze();
    const refused = await refusal(ann, { to: 'bob', data: 2, id: 'l' });
    assert.equal(refused.code, 'unavailable');
    // What was stored all the same, and is not replicated yet, is no duplicate that one could count on.
    assert.equal((await refusal(ann, { to: 'bob', data: 2, id: 'l' })).code, 'unavailable');
    assert.equal((await refusal(ann, { to: 'bob', data: 1, id: 'k' })).code, 'unavailable');
    assert.equal((await apis[0].call('post', '/users/{user}/messages', { user: 'bob', event: 'e' })).status, 503);
    replica.thaw();
    const again = await until('the replica has it', async () => {
      const answer = await ask(ann, 'send', { to: 'bob', data: 2, id: 'l' });
      return answer.ok && answer;
    });
    assert.equal(again.status, 'duplicate');
    assert.equal((await send(ann, 'bob', 3)).status, 'stored');
    // The connections of such writes break and are made anew like all others.
    await redis.kill();
    assert.equal((await refusal(ann, { to: 'bob', data: 4, id: 'm' })).code, 'unavailable');
    await redis.start();
    await until('sends are answered again', async () => (await ask(ann, 'send', { to: 'carl', data: 5, id: 'n' })).ok, 15_000);
    assert.equal(await looked.xLen('tidegate:{/|carl}:inbox'), 1);
  });

  test('who may send to whom is in the token', async (t) => {
    const stage = stageOf(t);
    const secret = 's'.repeat(40);
    const config = `[auth.jwt]\nsecret = "${secret}"\n`;
    const env = { TIDEGATE_AUTH__JWT__SECRET: secret };
    const node = await startTidegate(stage, { dev: false, config });
    const { stdout } = await run(['token', '--sub', 'ann', '--send', 'b*'], { env });
    const ann = await connected(client(stage, node.url, { ...WEBSOCKET, auth: { token: stdout.trim() } }));
    assert.equal((await send(ann, 'bob', 1)).status, 'stored');
    assert.equal((await refusal(ann, { to: 'carl', data: 1 })).code, 'forbidden');
    // Being ready needs no grant.
    await online(ann);
  });

  test('a drain and a killed node cost nobody a message', async (t) => {
    const stage = stageOf(t);
    const { urls, apis, nodes } = await processes(stage, { settings: { cluster: { pulse_interval_ms: 100, fence_after_ms: 500 }, sessions: { lease_ttl_ms: 2_000, lease_renew_ms: 500 } } });
    const ann = await enter(stage, urls[0], 'ann');
    const bob = await online(await enter(stage, urls[1], 'bob'));
    await assertCaughtUp(bob, 0);
    const first = await send(ann, 'bob', 1);
    await assertLive(bob, { ...first, from: 'ann', data: 1, node: IDS[0] });
    bob.disconnect();
    await nodes[1].kill();
    const second = await send(ann, 'bob', 2);
    const back = await online(await enter(stage, urls[0], 'bob'));
    (await assertWaited(back, { ...first, from: 'ann', data: 1 }))();
    (await assertWaited(back, { ...second, from: 'ann', data: 2 }))();
    await assertCaughtUp(back, 2);
    await untilNothingWaits(apis[0], 'bob');
  });
});
