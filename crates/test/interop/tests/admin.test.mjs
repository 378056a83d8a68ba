// The HTTP API on the admin port: what it says and does for the whole cluster, asked on any node of it. Every answer is
// held to the node's own OpenAPI document (lib/api.mjs).

import { after, before } from 'node:test';
import assert from 'node:assert/strict';
import { describe, test } from '../lib/test.mjs';
import { Stage, stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { startRedis } from '../lib/redis.mjs';
import { startPeer } from '../lib/peer.mjs';
import { openDoorway } from '../lib/doorway.mjs';
import { Api } from '../lib/api.mjs';
import { request } from '../lib/wire.mjs';
import { ask, connect, connected, inbox, MESSAGE_PACK, POLLING, upgraded, WEBSOCKET } from '../lib/client.mjs';
import { until } from '../lib/wait.mjs';

/** Presence is kept in the root alone. */
const CONFIG = `
[namespaces."/"]
presence = true
[namespaces."/quiet"]
`;
const NAMESPACES = ['/', '/quiet'];

const IDS = ['gw-0', 'gw-1'];

/** Names that a path must carry encoded. */
const ODD = 'a/b c%2F?é😀#&+=;';

const KEYS = ['first-key-of-the-api', 'second-key-of-the-api'];

/** A lease that a frozen node keeps for longer than a test takes. */
const LONG_LEASE = { cluster: { pulse_interval_ms: 100, fence_after_ms: 500 }, sessions: { lease_ttl_ms: 30_000, lease_renew_ms: 500 } };

const DRAINED_WITHIN_MS = 15_000;

async function processes(stage, { settings } = {}) {
  const redis = await startRedis(stage);
  const nodes = await Promise.all(IDS.map((nodeId) => startTidegate(stage, { redis, config: CONFIG, nodeId, settings })));
  const admins = nodes.map(({ admin }) => admin);
  return { redis, nodes, admins, urls: nodes.map(({ url }) => url), apis: await Promise.all(admins.map((admin) => Api.of(admin))) };
}

async function oneProcess(stage, { settings } = {}) {
  const node = await startTidegate(stage, { nodes: 2, config: CONFIG, nodeId: 'gw', settings });
  return { nodes: [node], admins: node.admins, urls: node.urls, apis: await Promise.all(node.admins.map((admin) => Api.of(admin))) };
}

/** A client that keeps what it is told of its end, and `message`. */
async function enter(stage, url, auth, options = WEBSOCKET) {
  const socket = await connect(stage, url, { auth, ...options });
  return watched(socket);
}

function watched(socket) {
  return Object.assign(socket, { heard: inbox(socket), evictions: inbox(socket, 'evicted'), drops: inbox(socket, 'disconnect') });
}

const join = async (socket, room) => assert.deepEqual(await ask(socket, 'join', room), { ok: true });

/** It was told that it was kicked, once, and stays away. */
async function assertKicked(socket) {
  assert.equal((await socket.drops.next('disconnect'))[0], 'io server disconnect');
  assert.deepEqual(socket.evictions.drain(), [[{ reason: 'kicked' }]]);
  assert.equal(socket.active, false, 'it does not come back by itself');
}

async function assertStays(...sockets) {
  for (const socket of sockets) {
    assert.equal((await ask(socket, 'heartbeat')).ok, true);
    assert.equal(socket.evictions.waiting + socket.drops.waiting, 0);
  }
}

/** A time in Unix milliseconds of this minute. */
const assertRecent = (time) => assert.ok(Math.abs(Date.now() - time) < 60_000, `${time} is a time in milliseconds`);

/** The answer of both nodes, which must be the same. For what does not change meanwhile. */
async function same(apis, template, words) {
  let answers;
  // A node that subscribes anew on a busy machine is named as missing, and only as long as it does.
  await until('no node is missing', async () => {
    answers = await Promise.all(apis.map((api) => api.get(template, words)));
    return answers.every(({ missing = [] }) => missing.length === 0);
  });
  const [one, other] = answers;
  assert.deepEqual(one, other, 'either node says the same');
  return one;
}

const nameOf = ({ session, room, node }) => session ?? room ?? node;
const byName = (one, other) => (nameOf(one) < nameOf(other) ? -1 : 1);

for (const [name, build] of Object.entries({ 'two processes over Redis': processes, 'two nodes in one process': oneProcess })) {
  describe(`the HTTP API: ${name}`, { skip: TIDEGATE_ONLY }, () => {
    const shared = new Stage();
    let urls;
    let apis;
    before(async () => ({ urls, apis } = await build(shared)));
    after(() => shared.close());

    for (const namespace of NAMESPACES) {
      describe(`in ${namespace}`, { concurrency: 1 }, () => {
        /** Where a client of node `index` in the namespace connects. */
        const at = (index) => urls[index] + namespace;

        test('GET /users/{user}: sessions on all nodes, the oldest first', async (t) => {
          const stage = stageOf(t);
          const user = `${t.name} ${ODD}`;
          assert.deepEqual(await same(apis, '/users/{user}', { user, namespace }), { user, sessions: [], offline: { count: 0, bytes: 0 } });
          const phone = await enter(stage, at(0), { user, device: 'phone' }, {});
          const tablet = await enter(stage, at(1), { user, device: 'tablet' }, POLLING);
          const desk = await enter(stage, at(1), { user }, { ...WEBSOCKET, ...MESSAGE_PACK });
          await enter(stage, at(0), {});
          await enter(stage, at(0), { user: `${user}.` });
          await upgraded(phone);
          const seen = async () => (await same(apis, '/users/{user}', { user, namespace })).sessions;
          await until('the upgrade is known', async () => (await apis[1].get('/users/{user}', { user, namespace })).sessions[0].transport === 'websocket');
          const sessions = await seen();
          assert.deepEqual(
            sessions.map(({ session, device, node, transport }) => [session, device, node, transport]),
            [
              [phone.id, 'phone', IDS[0], 'websocket'],
              [tablet.id, 'tablet', IDS[1], 'polling'],
              [desk.id, 'default', IDS[1], 'websocket'],
            ],
          );
          for (const { connected_at, last_seen } of sessions) {
            assertRecent(connected_at);
            assert.ok(last_seen >= connected_at, `${last_seen} is not before ${connected_at}`);
          }
          assert.ok(sessions[0].connected_at <= sessions[1].connected_at && sessions[1].connected_at <= sessions[2].connected_at);

          const { ts } = await ask(tablet, 'heartbeat', null);
          await until('the heartbeat is known', async () => (await apis[0].get('/users/{user}', { user, namespace })).sessions[1].last_seen >= ts);
          assert.equal((await seen())[1].connected_at, sessions[1].connected_at);
          phone.disconnect();
          await until('one has gone', async () => (await apis[1].get('/users/{user}', { user, namespace })).sessions.length === 2);
          assert.deepEqual((await seen()).map(({ session }) => session), [tablet.id, desk.id]);
          const elsewhere = NAMESPACES.find((each) => each !== namespace);
          assert.deepEqual((await same(apis, '/users/{user}', { user, namespace: elsewhere })).sessions, []);
        });

        test('DELETE /users/{user}/sessions: told why, gone at once, away until told otherwise', async (t) => {
          const stage = stageOf(t);
          const user = `${t.name} ${ODD}`;
          assert.deepEqual(await apis[0].delete('/users/{user}/sessions', { user, namespace }), { evicted: 0 });
          const [phone, tablet] = [await enter(stage, at(0), { user, device: ODD }, {}), await enter(stage, at(1), { user, device: 'tablet' }, POLLING)];
          const other = await enter(stage, at(0), { user: `${user}.`, device: ODD });
          const beside = watched(phone.io.socket(NAMESPACES.find((each) => each !== namespace), { auth: { user, device: ODD } }));
          await connected(beside);
          assert.deepEqual(await apis[1].delete('/users/{user}/sessions', { user, namespace, device: 'no such device' }), { evicted: 0 });
          assert.deepEqual(await apis[1].delete('/users/{user}/sessions', { user, namespace, device: ODD }), { evicted: 1 });
          assert.deepEqual((await same(apis, '/users/{user}', { user, namespace })).sessions.map(({ session }) => session), [tablet.id]);
          await assertKicked(phone);
          await assertStays(tablet, other, beside);
          // It may come back, if it is told to.
          phone.connect();
          await connected(phone);
          assert.deepEqual(await apis[1].delete('/users/{user}/sessions', { user, namespace }), { evicted: 2 });
          assert.deepEqual((await same(apis, '/users/{user}', { user, namespace })).sessions, []);
          await assertKicked(phone);
          await assertKicked(tablet);
          await assertStays(other, beside);
        });

        /** Users are counted where presence is kept, else sessions, those without a user included. */
        test('GET /rooms and /rooms/{room}: who is where, on all nodes', async (t) => {
          const stage = stageOf(t);
          const counts = namespace === '/' ? { users: 2, sessions: 3 } : { users: 4, sessions: 4 };
          const room = `${t.name} ${ODD}`;
          assert.deepEqual(await same(apis, '/rooms/{room}', { room, namespace }), { room, members: [], missing: [], next: null });
          const [ann, bob] = [`${t.name} ann`, `${t.name} bob`];
          const sockets = [
            [await enter(stage, at(0), { user: ann, device: 'phone' }), ann, 'phone', 0],
            [await enter(stage, at(1), { user: ann, device: 'tablet' }, POLLING), ann, 'tablet', 1],
            [await enter(stage, at(1), { user: bob }, { ...WEBSOCKET, ...MESSAGE_PACK }), bob, 'default', 1],
            [await enter(stage, at(0), {}), null, 'default', 0],
          ];
          for (const [socket] of sockets) await join(socket, room);
          await join(sockets[2][0], `${room} of bob`);
          await enter(stage, at(0), { user: `${t.name} nowhere` });

          const rooms = await same(apis, '/rooms', { namespace, limit: 1000 });
          const own = rooms.rooms.filter((each) => each.room.startsWith(room)).sort(byName);
          assert.deepEqual(own, [{ room: `${room} of bob`, members: 1 }, { room, members: counts.users }].sort(byName));
          assert.deepEqual([rooms.missing, rooms.next], [[], null]);
          assert.ok(!rooms.rooms.some((each) => sockets.some(([{ id }]) => each.room === id)), 'a socket’s own room is nobody’s');

          const expected = sockets.slice(0, counts.sessions).map(([{ id }, user, device, node]) => ({ session: id, user, device, node: IDS[node] }));
          const members = async () => (await same(apis, '/rooms/{room}', { room, namespace })).members.sort(byName);
          assert.deepEqual(await members(), expected.sort(byName));
          const elsewhere = NAMESPACES.find((each) => each !== namespace);
          assert.deepEqual((await same(apis, '/rooms/{room}', { room, namespace: elsewhere })).members, []);

          await ask(sockets[0][0], 'leave', room);
          sockets[2][0].disconnect();
          await until('who left is not listed', async () => (await apis[0].get('/rooms/{room}', { room, namespace })).members.length === counts.sessions - 2);
          assert.ok((await members()).some(({ session }) => session === sockets[1][0].id));
          for (const [socket] of sockets) socket.disconnect();
          await until('the rooms are gone', async () => (await apis[0].get('/rooms', { namespace, limit: 1000 })).rooms.every((each) => !each.room.startsWith(room)));
        });

        test('pages: everything on one or another, and an end', async (t) => {
          const stage = stageOf(t);
          const room = `${t.name} 0`;
          const members = await Promise.all(Array.from({ length: 12 }, (_, i) => enter(stage, at(i % 2), { user: `${t.name} ${i}` })));
          const rooms = Array.from({ length: 25 }, (_, i) => `${t.name} ${i}`);
          await Promise.all([...rooms.map((each) => join(members[0], each)), ...members.map((member) => join(member, room))]);
          const walk = async (template, field, words) => {
            const pages = [];
            for (let after = {}; ; ) {
              const answer = await apis[pages.length % 2].get(template, { ...words, namespace, ...after });
              assert.deepEqual(answer.missing, []);
              pages.push(answer[field]);
              if (answer.next === null) return pages;
              assert.ok(pages.length < 100, 'there is an end');
              after = { after: answer.next };
            }
          };
          const wanted = { '/rooms': ['rooms', rooms], '/rooms/{room}': ['members', members.map(({ id }) => id)] };
          for (const [template, [field, expected]] of Object.entries(wanted)) {
            for (const words of [{}, { limit: 1 }, { limit: 7 }, { limit: 1000 }]) {
              const pages = await walk(template, field, template === '/rooms' ? words : { ...words, room });
              const found = pages.flat().map(nameOf);
              assert.equal(new Set(found).size, found.length, 'each once');
              for (const each of expected) assert.ok(found.includes(each), each);
              // What Redis lists comes in pages of its own making.
              if (namespace !== '/' && words.limit) for (const page of pages.slice(0, -1)) assert.equal(page.length, words.limit);
            }
          }
          for (const after of ['no cursor at all', ODD]) assert.deepEqual((await apis[0].get('/rooms/{room}', { room: 'nobody is here', namespace, after })).members, []);
        });

        test('POST /rooms/{room}/join and leave: once answered, a message reaches them, or no longer', async (t) => {
          const stage = stageOf(t);
          const room = `${t.name} ${ODD}`;
          const [user, bob] = [`${t.name} ann`, `${t.name} bob`];
          const ann = [await enter(stage, at(0), { user, device: 'phone' }, POLLING), await enter(stage, at(1), { user, device: 'tablet' }, { ...WEBSOCKET, ...MESSAGE_PACK })];
          const byId = [await enter(stage, at(1), { user: bob }), await enter(stage, at(0), {})];
          const publisher = await enter(stage, at(1), {});
          const everyone = [...ann, ...byId];
          /** What is published now is the next thing for each of `expected`, and the fence for all others. */
          const reaches = async (expected) => {
            const data = Math.random();
            assert.equal((await ask(publisher, 'publish', { room, data })).ok, true);
            assert.equal((await ask(publisher, 'broadcast', { data: 'fence' })).ok, true);
            for (const socket of everyone) {
              const got = [];
              while (got.at(-1) !== 'fence') got.push((await socket.heard.next('the fence'))[0]);
              assert.deepEqual(got, expected.includes(socket) ? [data, 'fence'] : ['fence']);
            }
          };
          const chosen = { namespace, room, users: [user, 'nobody', user], sessions: [...byId.map(({ id }) => id), 'AAAAAAAAAAAAAAAAAAAA', ann[0].id] };
          assert.deepEqual(await apis[0].post('/rooms/{room}/join', chosen), { matched: 4 });
          await reaches(everyone);
          assert.deepEqual(await apis[1].post('/rooms/{room}/join', { namespace, room, users: [user] }), { matched: 2 });
          await reaches(everyone);
          const listed = (await same(apis, '/rooms/{room}', { room, namespace })).members.map(({ session }) => session);
          assert.deepEqual(listed.sort(), everyone.slice(0, namespace === '/' ? 3 : 4).map(({ id }) => id).sort());

          assert.deepEqual(await apis[1].post('/rooms/{room}/leave', { namespace, room, users: [user], sessions: [] }), { matched: 2 });
          await reaches(byId);
          assert.deepEqual(await apis[0].post('/rooms/{room}/leave', { namespace, room, sessions: byId.map(({ id }) => id) }), { matched: 2 });
          await reaches([]);
          assert.deepEqual(await apis[0].post('/rooms/{room}/leave', { namespace, room, users: ['nobody'], sessions: ['AAAAAAAAAAAAAAAAAAAA'] }), { matched: 0 });
          await assertStays(...everyone);
        });

        test('POST /disconnect: by rooms and users, from the namespace or with the connection', async (t) => {
          const stage = stageOf(t);
          const elsewhere = NAMESPACES.find((each) => each !== namespace);
          const people = {};
          for (const [i, [name, options]] of Object.entries({ ann: {}, bob: POLLING, cat: { ...WEBSOCKET, ...MESSAGE_PACK }, dan: WEBSOCKET }).entries()) {
            const user = `${t.name} ${name}`;
            const socket = await enter(stage, at(i % 2), { user }, options);
            const beside = watched(socket.io.socket(elsewhere, { auth: { user } }));
            await connected(beside);
            people[name] = { user, socket, beside, engine: () => socket.io.engine };
          }
          const { ann, bob, cat, dan } = people;
          const rooms = [`${t.name} ${ODD}`, `${t.name} two`];
          await join(ann.socket, rooms[0]);
          await join(bob.socket, rooms[1]);
          await join(bob.socket, rooms[0]);
          await join(bob.beside, rooms[1]);
          assert.deepEqual(await apis[0].post('/disconnect', { namespace, rooms: ['nobody is here'], users: ['nobody'] }), { matched: 0 });
          assert.deepEqual(await apis[0].post('/disconnect', { namespace, rooms, users: [cat.user, ann.user] }), { matched: 3 });
          for (const { user } of [ann, cat]) assert.deepEqual((await same(apis, '/users/{user}', { user, namespace })).sessions, [], 'at once');
          for (const { socket } of [ann, bob, cat]) await assertKicked(socket);
          for (const { beside, engine } of [ann, bob, cat]) {
            await assertStays(beside);
            assert.equal(engine().readyState, 'open');
          }
          await assertStays(dan.socket, dan.beside);

          await join(bob.beside, rooms[0]);
          const closed = [bob, dan].map(({ engine }) => engine());
          assert.deepEqual(await apis[1].post('/disconnect', { namespace: elsewhere, rooms, close: true }), { matched: 1 });
          assert.deepEqual(await apis[1].post('/disconnect', { namespace, users: [dan.user], close: true }), { matched: 1 });
          for (const socket of [bob.beside, dan.socket, dan.beside]) await assertKicked(socket);
          for (const engine of closed) await until('the transport is closed', () => engine.readyState === 'closed');
          await assertStays(ann.beside, cat.beside);
        });
      });
    }

    test('GET /nodes', async (t) => {
      const stage = stageOf(t);
      // What a node says of itself is as old as its last pulse.
      const counted = (...wanted) =>
        until('everything is counted', async () => {
          const answers = await Promise.all(apis.map((api) => api.get('/nodes')));
          return answers.every((nodes) => JSON.stringify(nodes.sort(byName).map(({ node, connections, sessions }) => [node, connections, sessions])) === JSON.stringify(IDS.map((id, i) => [id, ...wanted[i]])));
        });
      await counted([0, 0], [0, 0]);
      const here = await enter(stage, urls[0], { user: 'ann' }, {});
      await connected(here.io.socket('/quiet', { auth: { user: 'ann' } }));
      await enter(stage, urls[1], {}, POLLING);
      await enter(stage, urls[1], { user: 'bob' });
      await counted([1, 2], [2, 2]);
      for (const { started_at, draining, version } of await same(apis, '/nodes')) {
        assertRecent(started_at);
        assert.deepEqual([draining, version], [false, apis[0].document.info.version]);
      }
    });

    test('refusals are problems that name what is wrong', async () => {
      const long = 'x'.repeat(257);
      const path = { room: 'r' };
      const some = (count, of = (i) => `${i}`) => Array.from({ length: count }, (_, i) => of(i));
      const cases = [
        ['get', '/users/{user}', { user: long }, 400, /^user: .*256 bytes/],
        ['get', '/users/{user}', { user: 'ann', namespace: 'chat' }, 400, /^namespace: /],
        ['get', '/users/{user}', { user: 'ann', namespace: '/none' }, 404, /\/none/],
        ['get', '/users/{user}', { user: 'ann', device: 'phone' }, 400, /"device".*namespace/],
        ['delete', '/users/{user}/sessions', { user: 'ann', device: '' }, 400, /^device: /],
        ['delete', '/users/{user}/sessions', { user: 'ann', devise: 'phone' }, 400, /"devise"/],
        ['delete', '/users/{user}/sessions', { user: 'ann', namespace: '/none' }, 404, /\/none/],
        ['get', '/rooms', { limit: '0' }, 400, /^limit: .*1000/],
        ['get', '/rooms', { limit: '1001' }, 400, /^limit: .*1000/],
        ['get', '/rooms', { limit: 'ten' }, 400, /^limit: .*1000/],
        ['get', '/rooms', { after: '' }, 400, /^after: /],
        ['get', '/rooms/{room}', { room: long }, 400, /^room: .*256 bytes/],
        ['post', '/rooms/{room}/join', path, 400, /^users, sessions: /],
        ['post', '/rooms/{room}/join', { ...path, users: [], sessions: [] }, 400, /^users, sessions: /],
        ['post', '/rooms/{room}/join', { ...path, users: 'ann' }, 400, /^users: /],
        ['post', '/rooms/{room}/join', { ...path, users: ['ann', 7] }, 400, /^users\[1\]: /],
        ['post', '/rooms/{room}/join', { ...path, users: [''] }, 400, /^users\[0\]: /],
        ['post', '/rooms/{room}/join', { ...path, users: some(1001) }, 400, /^users: .*1000/],
        ['post', '/rooms/{room}/leave', { ...path, sessions: ['short'] }, 400, /^sessions\[0\]: /],
        ['post', '/rooms/{room}/leave', { ...path, rooms: ['r'] }, 400, /"rooms"/],
        ['post', '/rooms/{room}/leave', { ...path, users: ['ann'], namespace: '/none' }, 404, /\/none/],
        ['post', '/disconnect', {}, 400, /^rooms, users: /],
        ['post', '/disconnect', { rooms: ['r'], close: 'yes' }, 400, /^close: /],
        ['post', '/disconnect', { users: some(1000, (i) => `${i}`.padStart(256, 'x')) }, 413, /65536 bytes/],
        ['get', '/nodes', { namespace: '/' }, 400, /"namespace"/],
        ['post', '/drain', { now: '1' }, 400, /"now"/],
      ];
      for (const [verb, template, words, status, detail] of cases) {
        const { body, ...answer } = await apis[0].call(verb, template, words);
        assert.equal(answer.status, status, `${verb} ${template} ${JSON.stringify(words).slice(0, 100)}: ${JSON.stringify(body)}`);
        assert.match(body.detail, detail);
        assert.equal(body.code, { 400: 'bad_request', 404: 'not_found', 413: 'too_large' }[status]);
      }
      const bodies = [
        ['{', {}, 400, /JSON/],
        ['[]', {}, 400, /object/],
        ['', {}, 400, /JSON/],
        ['{"rooms":["r"]}', { 'content-type': 'text/plain' }, 415, /application\/json/],
      ];
      for (const [body, headers, status, detail] of bodies) {
        const answer = await apis[0].call('post', '/disconnect', {}, { body, headers });
        assert.equal(answer.status, status);
        assert.match(answer.body.detail, detail);
      }
      // What is no operation has a problem all the same.
      const probes = [
        ['GET', '/api/v1/nothing', 404, 'not_found'],
        ['GET', '/api/v1/disconnect', 405, 'bad_request'],
        ['DELETE', '/api/v1/rooms/r', 405, 'bad_request'],
        ['GET', '/api/v1/users/%ff', 400, 'bad_request'],
      ];
      for (const [method, at, status, code] of probes) {
        const answer = await request(apis[0].admin + at, { method });
        assert.equal(answer.status, status, at);
        assert.equal(answer.headers['content-type'], 'application/problem+json');
        assert.equal(JSON.parse(answer.body).code, code);
      }
    });
  });

  test(`POST /drain drains the node that is asked, alone: ${name}`, { skip: TIDEGATE_ONLY }, async (t) => {
    const stage = stageOf(t);
    const { nodes, urls, apis } = await build(stage, { settings: { drain: { timeout_ms: 2_000 }, ...LONG_LEASE } });
    const doorway = await openDoorway(stage, Number(new URL(urls[0]).port));
    const moving = await connect(stage, doorway.url, { auth: { user: 'ann' }, reconnectionDelay: 50, reconnectionDelayMax: 100 });
    const staying = await enter(stage, urls[1], { user: 'bob' });
    await upgraded(moving);
    // The load balancer that sees the node drain sends everybody to the other one.
    doorway.target = Number(new URL(urls[1]).port);
    const { id } = moving;
    const { status, body } = await apis[0].call('post', '/drain');
    assert.deepEqual([status, body], [202, { draining: true }]);
    await until('the client is back, elsewhere', () => moving.connected && moving.id !== id);
    const { sessions } = await apis[1].get('/users/{user}', { user: 'ann' });
    assert.deepEqual(sessions.map(({ session, node }) => [session, node]), [[moving.id, IDS[1]]]);
    await assertStays(staying);
    const heard = inbox(moving);
    await join(moving, 'r');
    assert.equal((await ask(staying, 'publish', { room: 'r', data: 1 })).ok, true);
    assert.equal((await heard.next())[0], 1);
    await until('the drained node is no longer listed', async () => (await apis[1].get('/nodes')).map(({ node }) => node).join() === IDS[1], DRAINED_WITHIN_MS);
    assert.equal((await request(`${apis[1].admin}/readyz`)).status, 200);
    if (nodes.length === 2) {
      assert.deepEqual(await nodes[0].exited(DRAINED_WITHIN_MS), { code: 0, signal: null }, 'the process has no other node');
    } else {
      assert.equal((await request(`${apis[0].admin}/readyz`)).status, 503);
      assert.equal((await request(`${urls[0]}/socket.io/?EIO=4&transport=polling`).catch(() => ({ status: 503 }))).status, 503);
      assert.equal(nodes[0].running, true, 'the other node serves on');
      assert.equal((await apis[0].call('post', '/drain')).status, 202, 'again changes nothing');
    }
    await assertStays(staying);
    const last = nodes.at(-1);
    assert.equal((await apis[1].call('post', '/drain')).status, 202);
    assert.deepEqual(await last.exited(DRAINED_WITHIN_MS), { code: 0, signal: null }, 'all of its nodes have drained');
  });
}

describe('the HTTP API', { skip: TIDEGATE_ONLY, concurrency: 3 }, () => {
  test('keys: any of them opens, everything else is answered one and the same 401', async (t) => {
    const stage = stageOf(t);
    const { admin } = await startTidegate(stage, { dev: false, config: `[auth]\nmode = "none"\n[admin]\napi_keys = ${JSON.stringify(KEYS)}\n` });
    for (const key of KEYS) assert.equal((await (await Api.of(admin, key)).get('/nodes')).length, 1);
    const given = {
      none: {},
      'a wrong one': { authorization: 'Bearer wrong-key-of-the-api!' },
      'one cut short': { authorization: `Bearer ${KEYS[0].slice(0, -1)}` },
      'one with more': { authorization: `Bearer ${KEYS[0]}x` },
      'both at once': { authorization: `Bearer ${KEYS.join()}` },
      nothing: { authorization: 'Bearer ' },
      'another scheme': { authorization: `Basic ${KEYS[0]}` },
      'no scheme': { authorization: KEYS[0] },
    };
    const open = await Api.of(admin);
    const answers = new Set();
    for (const [what, headers] of Object.entries(given)) {
      for (const [verb, template, words] of [['get', '/nodes', {}], ['get', '/users/{user}', { user: 'ann' }], ['post', '/disconnect', {}], ['post', '/drain', {}]]) {
        const { status, body, headers: answered } = await open.call(verb, template, words, { headers });
        assert.equal(status, 401, `${what}: ${verb} ${template}`);
        assert.equal(answered['www-authenticate'], 'Bearer');
        answers.add(JSON.stringify(body));
      }
      // Not even what there is.
      const nothing = await request(`${admin}/api/v1/nothing`, { headers });
      assert.equal(nothing.status, 401);
      answers.add(JSON.stringify(JSON.parse(nothing.body)));
    }
    assert.equal(answers.size, 1, [...answers].join('\n'));
    for (const path of ['/healthz', '/readyz', '/metrics', '/openapi.json']) assert.equal((await request(admin + path)).status, 200, path);
    assert.equal((await request(`${admin}/readyz`)).status, 200, 'nothing was drained');
  });

  test('no key configured: always 401', async (t) => {
    const stage = stageOf(t);
    const { admin } = await startTidegate(stage, { dev: false, config: '[auth]\nmode = "none"\n' });
    for (const key of [undefined, '', 'undefined', KEYS[0]]) {
      const { status, body } = await (await Api.of(admin, key)).call('get', '/nodes');
      assert.deepEqual([status, body.code], [401, 'unauthorized']);
    }
  });

  test('pages of other origins may read what the console needs under --dev, and change nothing', async (t) => {
    const stage = stageOf(t);
    const { admin } = await startTidegate(stage);
    const headers = { origin: 'https://elsewhere.example' };
    const allowed = async (path) => (await request(admin + path, { headers })).headers['access-control-allow-origin'];
    assert.deepEqual([await allowed('/metrics'), await allowed('/api/v1/nodes'), await allowed('/api/v1/rooms')], ['*', '*', undefined]);
    const api = await Api.of(admin);
    assert.equal((await api.call('post', '/drain', {}, { headers })).status, 403);
    assert.equal((await api.call('delete', '/users/{user}/sessions', { user: 'ann' }, { headers })).status, 403);
    assert.equal((await request(`${admin}/readyz`)).status, 200);
  });

  test('a frozen node is named as missing, and what the others have is answered', async (t) => {
    const stage = stageOf(t);
    const { nodes, urls, apis } = await processes(stage, { settings: LONG_LEASE });
    const [api] = apis;
    const [here, there] = [await enter(stage, `${urls[0]}/quiet`, { user: 'ann' }), await enter(stage, `${urls[1]}/quiet`, { user: 'bob' })];
    const inRoot = [await enter(stage, urls[0], { user: 'ann' }), await enter(stage, urls[1], { user: 'bob' })];
    for (const socket of [here, there, ...inRoot]) await join(socket, 'r');
    // The counts by which a silent node is known to have sessions come with its pulse.
    await until('both are counted', async () => (await api.get('/nodes')).every(({ sessions }) => sessions === 2));
    await nodes[1].freeze(stage);
    const quiet = { namespace: '/quiet' };
    assert.deepEqual(await api.get('/rooms', quiet), { rooms: [{ room: 'r', members: 1 }], missing: [IDS[1]], next: null });
    const found = await api.get('/rooms/{room}', { ...quiet, room: 'r' });
    assert.deepEqual(found.members.map(({ session }) => session), [here.id]);
    assert.deepEqual(found.missing, [IDS[1]]);
    // Where presence is kept nobody need be asked.
    const kept = await api.get('/rooms/{room}', { room: 'r' });
    assert.deepEqual([kept.members.length, kept.missing], [2, []]);
    assert.deepEqual((await api.get('/users/{user}', { ...quiet, user: 'bob' })).sessions.map(({ session }) => session), [there.id]);
    // Who is on it does not come back: the kick waits for it when it does.
    assert.deepEqual(await api.delete('/users/{user}/sessions', { ...quiet, user: 'bob' }), { evicted: 1 });
    nodes[1].thaw();
    await assertKicked(there);
    await until('nobody is missing', async () => (await api.get('/rooms', quiet)).missing.length === 0);
    await assertStays(here, ...inRoot);
  });

  test('sockets of a Node server are listed, moved and disconnected as well', async (t) => {
    const stage = stageOf(t);
    const { redis, urls, apis } = await processes(stage);
    const peer = await startPeer(stage, redis);
    const namespace = '/quiet';
    const guests = [watched(await connect(stage, peer.url + namespace, WEBSOCKET)), watched(await connect(stage, peer.url + namespace, POLLING))];
    for (const guest of guests) await join(guest, 'r');
    const look = await redis.client(stage);
    await until('the Node server listens', async () => Number((await look.sendCommand(['PUBSUB', 'NUMSUB', `socket.io-request#${namespace}#`]))[1]) === 1);
    const members = async (room) => (await same(apis, '/rooms/{room}', { room, namespace })).members.sort(byName);
    const unknown = ({ id }) => ({ session: id, user: null, device: null, node: null });
    assert.deepEqual(await members('r'), guests.map(unknown).sort(byName), 'also when no node has a session there');
    const ann = await enter(stage, urls[1] + namespace, { user: 'ann' });
    await join(ann, 'r');
    assert.deepEqual(await members('r'), [...guests.map(unknown), { session: ann.id, user: 'ann', device: 'default', node: IDS[1] }].sort(byName));
    assert.deepEqual((await same(apis, '/rooms', { namespace })).rooms, [{ room: 'r', members: 3 }]);

    const sessions = [guests[0].id, ann.id];
    assert.deepEqual(await apis[0].post('/rooms/{room}/join', { room: 'more', namespace, sessions }), { matched: 2 });
    assert.deepEqual((await members('more')).map(({ session }) => session), sessions.sort());
    assert.equal((await ask(ann, 'publish', { room: 'more', data: 1 })).ok, true);
    assert.equal((await guests[0].heard.next())[0], 1);
    assert.deepEqual(await apis[1].post('/rooms/{room}/leave', { room: 'more', namespace, sessions }), { matched: 2 });
    assert.deepEqual(await members('more'), []);

    assert.deepEqual(await apis[0].post('/disconnect', { namespace, rooms: ['r'] }), { matched: 3 });
    await assertKicked(ann);
    for (const guest of guests) {
      assert.equal((await guest.drops.next())[0], 'io server disconnect');
      assert.equal(guest.evictions.waiting, 0);
    }
    assert.deepEqual(await members('r'), []);
  });

  test('without Redis the outcome is unknown, and said so', async (t) => {
    const stage = stageOf(t);
    const { redis, urls, apis } = await processes(stage, { settings: { redis: { command_timeout_ms: 500 } } });
    await enter(stage, `${urls[0]}/quiet`, { user: 'ann' });
    await redis.kill();
    const calls = [
      ['get', '/users/{user}', { user: 'ann' }],
      ['delete', '/users/{user}/sessions', { user: 'ann' }],
      ['get', '/rooms', {}],
      ['get', '/rooms', { namespace: '/quiet' }],
      ['get', '/rooms/{room}', { room: 'r', namespace: '/quiet' }],
      ['post', '/rooms/{room}/join', { room: 'r', namespace: '/quiet', users: ['ann'] }],
      ['post', '/disconnect', { namespace: '/quiet', rooms: ['r'] }],
      ['get', '/nodes', {}],
    ];
    for (const { status, body } of await Promise.all(calls.map((call) => apis[0].call(...call)))) {
      assert.deepEqual([status, body.code], [503, 'unavailable'], JSON.stringify(body));
    }
    assert.equal((await request(`${apis[0].admin}/healthz`)).status, 200);
  });
});

test('durable messages are sent and deleted on any node', { skip: TIDEGATE_ONLY }, async (t) => {
  // More of them in offline.test.mjs.
  const { apis } = await processes(stageOf(t));
  const user = ODD;
  const { status } = await apis[0].post('/users/{user}/messages', { user, namespace: '/quiet', event: 'e', data: [1], id: ODD, ttl_ms: 60_000 });
  assert.equal(status, 'stored');
  assert.equal((await apis[1].get('/users/{user}', { user, namespace: '/quiet' })).offline.count, 1);
  assert.equal((await apis[1].get('/users/{user}', { user })).offline.count, 0);
  assert.deepEqual(await apis[1].delete('/users/{user}/messages', { user, namespace: '/quiet' }), { deleted: 1 });
});

test('every operation of the document was seen to succeed', { skip: TIDEGATE_ONLY }, async (t) => {
  const { admin } = await startTidegate(stageOf(t));
  const { operations } = await Api.of(admin);
  assert.deepEqual([...Api.succeeded].sort(), operations.sort());
});
