// What the cluster goes through, one step after the other, each with a limit of its own. run.sh starts it in the network of
// the cluster, and passes the file that the number of passed steps goes to.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { ask, client, connect, connected, WEBSOCKET } from '../interop/lib/client.mjs';
import { Stage } from '../interop/lib/stage.mjs';
import { visit } from '../interop/lib/visitor.mjs';
import { limited, pause, until } from '../interop/lib/wait.mjs';
import { address as engineAddress, request } from '../interop/lib/wire.mjs';
import { Crowd, WAYS } from './crowd.mjs';
import { address, compose, docker, gateways, inRotation, PATIENCE_MS, query, rotation, tell, URL } from './lab.mjs';
import { rollingRestart } from './rolling.mjs';

/** How many gateways docker-compose.yml has. */
const GATEWAYS = 3;

/** Until when a client with default options is back after its node died without a word. */
const BACK_AFTER_DEATH_MS = 10_000;

/** The same when its node says nothing any more: it has to miss a ping first, which takes 4 s at most here. */
const BACK_AFTER_SILENCE_MS = 15_000;

/** Until when newcomers are in who were given to a node that was frozen just then: the balancer waits 2 s for it. */
const NEWCOMERS_MS = 6_000;

/** Above sessions.lease_ttl_ms. */
const FREEZE_MS = 12_000;

/** Below it: nobody takes over. */
const CUT_MS = 5_000;

/** How soon after the start of Redis everybody is to hear everybody: the nodes' backoff, a pulse, and the balancer's look. */
const RECOVERED_MS = 5_000;

/** More than a few polls, which take 2 s each here. */
const RELOADED_MS = 5_000;

/** The nodes that deploy/nginx and deploy/envoy name. */
const NAMED = ['gw-1', 'gw-2', 'gw-3'];

/** limits.connections_per_ip_max of compose.test.yml. */
const PER_ADDRESS = 150;

const NOT_EXERCISED = Symbol('not exercised');

const STEPS = {
  async image() {
    const [{ Config, Size }] = JSON.parse(await docker('image', 'inspect', process.env.TIDEGATE_IMAGE));
    assert.equal(Config.User, '65532:65532');
    assert.deepEqual(Config.Healthcheck.Test, ['CMD', '/usr/local/bin/tidegate', 'healthcheck']);
    const label = (name) => Config.Labels[`org.opencontainers.image.${name}`];
    for (const name of ['title', 'description', 'licenses', 'version', 'revision', 'source']) assert.ok(label(name), `no label ${name}`);
    for (const gateway of await gateways()) {
      const build = /^tidegate_build_info{revision="(.*)",version="(.*)"} 1$/m.exec(await gateway.metrics());
      assert.equal(label('version'), build[2], 'the label says what the program says');
      // What was compiled before has the revision of that time.
      if (!process.env.CLUSTER_BINARY) assert.deepEqual([label('revision'), build[1]], Array(2).fill(process.env.TIDEGATE_REVISION));
      const [{ HostConfig, State }] = JSON.parse(await docker('inspect', gateway.id));
      assert.deepEqual([HostConfig.ReadonlyRootfs, HostConfig.CapDrop, State.Health.Status], [true, ['ALL'], 'healthy']);
    }
    return `${(Size / 1e6).toFixed(1)} MB`;
  },

  async smoke(stage) {
    const crowd = new Crowd(stage, URL, 'smoke');
    for (const way of Object.keys(WAYS)) {
      // The fewest connections decide, and a poll that has just been answered is none, so it takes a few more of those.
      const nodes = () => new Set(crowd.members.filter((member) => member.way === way).map(({ node }) => node));
      for (let round = 0; round < 5 && nodes().size < GATEWAYS; round += 1) await crowd.admit(6, [way]);
      assert.equal(nodes().size, GATEWAYS, `clients of the way "${way}" are on all nodes`);
    }
    await crowd.hearEachOther();
    crowd.isUntroubled();

    const heard = new Promise((resolve) => crowd.members[0].socket.once('news', (_, meta) => resolve(meta)));
    const speaker = crowd.members.find(({ node }) => node !== crowd.members[0].node);
    await crowd.publish(speaker);
    assert.equal((await heard).node, speaker.node, 'what comes from elsewhere names its node');

    // A durable message for somebody who comes later, to another node, and then one that finds him there.
    const sent = await ask(speaker.socket, 'send', { to: 'late', event: 'letter', data: 1 });
    assert.deepEqual([sent.ok, sent.status], [true, 'stored']);
    const elsewhere = (await gateways()).find(({ node }) => node !== speaker.node);
    const late = await connect(stage, elsewhere.url, { ...WEBSOCKET, auth: { user: 'late' } });
    const letters = [];
    late.on('offline_message', ({ data }, acknowledge) => acknowledge(letters.push(data)));
    late.on('letter', (data, _, acknowledge) => acknowledge(letters.push(data)));
    await ask(late, 'online', {});
    await until('the letter that waited is there', () => letters.length === 1);
    const second = await ask(speaker.socket, 'send', { to: 'late', event: 'letter', data: 2 });
    assert.equal(second.status, 'live');
    await until('the second letter is there', () => letters.length === 2);
    assert.deepEqual(letters, [1, 2]);
  },

  async kill(stage) {
    const crowd = new Crowd(stage, URL, 'kill');
    await crowd.admit(8);
    const [victim] = await gateways();
    const struck = crowd.on(victim.node);
    assert.ok(struck.length > 0, 'somebody is on the node that is killed');
    const from = Date.now();
    await victim.kill();
    await until('its clients notice', () => struck.every(({ isReady }) => !isReady));
    await crowd.complete(BACK_AFTER_DEATH_MS);
    assert.ok(!crowd.nodes.has(victim.node), 'nobody is on the dead node');
    await crowd.hearEachOther();
    await victim.start();
    const back = await rotation(GATEWAYS);
    return `${struck.length} clients, back ${lastBack(struck) - from} ms after the kill at the latest; the node is back after ${back} ms`;
  },

  async freeze(stage) {
    const crowd = new Crowd(stage, URL, 'freeze');
    await crowd.admit(8);
    const all = await gateways();
    const [frozen, other] = [all.at(-1), all[0]];
    const struck = crowd.on(frozen.node);
    assert.ok(struck.length > 0, 'somebody is on the node that is frozen');
    // This one does not mind the silence and never leaves, so that whatever the node still holds for it would reach it.
    const guest = await visit(stage, frozen.url, { user: 'twice' });
    const given = [];
    guest.on('event', (name, data) => given.push([name, data]));
    await guest.ask('join', crowd.room);
    const teller = await connect(stage, other.url, { ...WEBSOCKET, auth: { user: 'teller' } });
    let number = 1_000_000;
    const announce = () => ask(teller, 'publish', { room: crowd.room, event: 'news', data: (number += 1) });

    await frozen.pause();
    const from = Date.now();
    try {
      // Those who come before the balancer has noticed are let in elsewhere, too. One of them takes the guest's place, and has
      // it for good, although the guest's node cannot be asked.
      const newcomers = Array.from({ length: 9 }, (_, i) => client(stage, URL, { ...WEBSOCKET, auth: { user: i === 0 ? 'twice' : `newcomer-${i}` } }));
      const [heir] = await Promise.all(newcomers.map((socket) => connected(socket, NEWCOMERS_MS)));
      assert.equal((await ask(heir, 'heartbeat', null)).ok, true);
      await until('the frozen node is out of rotation', async () => (await inRotation()) === GATEWAYS - 1, 10_000);
      await until('its clients are back', async () => {
        assert.equal((await announce()).ok, true);
        await pause(50);
        return crowd.members.every(({ isReady, node }) => isReady && node !== frozen.node);
      }, BACK_AFTER_SILENCE_MS);
      while (Date.now() - from < FREEZE_MS) {
        await announce();
        await pause(50);
      }
      assert.deepEqual(given, [], 'a frozen node says nothing');
    } finally {
      await frozen.unpause();
    }
    await until('the guest is told that it was displaced', () => given.some(([name]) => name === 'evicted'));
    await rotation(GATEWAYS);
    for (let i = 0; i < 20; i += 1) await announce();
    await crowd.hearEachOther();
    const [last] = given.slice(-1);
    assert.equal(last[0], 'evicted', 'nothing comes to it after that');
    const news = given.filter(([name]) => name === 'news');
    assert.deepEqual(news, [], 'nothing that was published while the node was frozen is given to whom it had displaced');
    // One session each, and none on the node that had been frozen.
    for (const { user } of struck) {
      const { sessions } = await api(other, `/users/${user}`);
      assert.deepEqual(sessions.map(({ node }) => node === frozen.node), [false], `${user} has one session, elsewhere`);
    }
    return `${struck.length} clients, back ${lastBack(struck) - from} ms after the freeze began at the latest; ${number - 1_000_000} numbers, none twice`;
  },

  async partition(stage) {
    const crowd = new Crowd(stage, URL, 'partition');
    await crowd.admit(8);
    const [, cut] = await gateways();
    const struck = crowd.on(cut.node);
    assert.ok(struck.length > 0, 'somebody is on the node that is cut off');
    const redis = await address('redis');
    await cut.cut(redis);
    let out;
    try {
      const from = Date.now();
      await until('the node is not ready', async () => (await cut.readiness()) === 503);
      // From the first moment, before the balancer has looked: it tries another node.
      const newcomers = Array.from({ length: 30 }, () => client(stage, URL, { ...WEBSOCKET, reconnection: false }));
      const landed = await Promise.all(newcomers.map((socket) => new Promise((resolve, reject) => {
        socket.once('connect', () => resolve(socket.io.engine.id.slice(20)));
        socket.once('connect_error', reject);
      })));
      assert.ok(!landed.includes(cut.node), 'newcomers are elsewhere');
      await until('the node is out of rotation', async () => (await inRotation()) === GATEWAYS - 1, 10_000);
      out = Date.now() - from;
      newcomers.forEach((socket) => socket.disconnect());
      assert.equal((await crowd.publish(struck[0])).error?.code, 'unavailable', 'what cannot be promised is refused');
      await pause(Math.max(0, CUT_MS - (Date.now() - from)));
      assert.ok(struck.every(({ isReady }) => isReady), 'its clients stay');
    } finally {
      await cut.heal(redis);
    }
    const back = await rotation(GATEWAYS);
    assert.equal(await cut.readiness(), 200);
    await crowd.hearEachOther();
    assert.ok(struck.every(({ absences }) => absences.length === 0), 'its clients never went away');
    const after = new Crowd(stage, URL, 'partition');
    await after.admit(12, ['websocket']);
    assert.ok(after.nodes.has(cut.node), 'newcomers are on it again');
    return `out of rotation after ${out} ms, back ${back} ms after the cut ended`;
  },

  // The server itself is away, and with it its name, for longer than the nodes' leases; it comes back with another address.
  async redis(stage) {
    const crowd = new Crowd(stage, URL, 'redis');
    await crowd.admit(8);
    const nodes = await gateways();
    await compose('stop', 'redis');
    const from = Date.now();
    let answered = 0;
    try {
      await until('no node is in rotation', async () => (await inRotation()) === 0, 10_000);
      while (Date.now() - from < FREEZE_MS) {
        const { status } = await request(engineAddress(URL, { transport: 'polling' }));
        assert.equal(status, 503, 'newcomers are told to come back');
        for (const node of nodes) assert.equal(await limited('/readyz', node.readiness(), 1_000), 503);
        answered += 1;
        await pause(200);
      }
      assert.ok(crowd.members.every(({ isReady, absences }) => isReady && absences.length === 0), 'clients stay');
    } finally {
      await compose('start', 'redis');
    }
    const back = await rotation(GATEWAYS, RECOVERED_MS);
    await crowd.complete();
    await crowd.hearEachOther();
    return `${answered} newcomers were refused; back ${back} ms after the start`;
  },

  async scale(stage) {
    const crowd = new Crowd(stage, URL, 'scale');
    await crowd.admit(4);
    const up = (count) => compose('up', '--detach', '--wait', '--no-recreate', '--no-build', '--scale', `gateway=${count}`);
    const seen = (count) => until(`Prometheus sees ${count} gateways`, async () => (await query('count(up{job="tidegate"} == 1)')) === count, 60_000);
    await seen(GATEWAYS);
    await up(GATEWAYS + 2);
    const joined = await rotation(GATEWAYS + 2);
    await crowd.admit(10, ['websocket']);
    const all = await gateways();
    assert.equal(all.length, GATEWAYS + 2);
    for (const { name, node } of all) assert.ok(crowd.nodes.has(node), `${name} has clients`);
    await crowd.hearEachOther();
    await seen(GATEWAYS + 2);
    // Fewer again, and whoever was on the others comes back elsewhere.
    await up(GATEWAYS);
    await crowd.complete();
    assert.equal((await gateways()).length, GATEWAYS);
    await rotation(GATEWAYS);
    await crowd.hearEachOther();
    await seen(GATEWAYS);
    return `the balancer knew the new ones ${joined} ms after they were healthy`;
  },

  rolling: rollingRestart,

  // The limit of connections per address counts clients, not the balancer, and nobody gets around it by a header.
  async addresses() {
    const nodes = await gateways();
    // A handshake that nothing follows is forgotten after 4 s, so they are made side by side.
    const wanted = (PER_ADDRESS + 20) * nodes.length;
    const open = (url, from) => request(engineAddress(url, { transport: 'polling' }), { headers: { 'x-forwarded-for': from } });
    const statuses = [];
    while (statuses.length < wanted) {
      const forged = `203.0.113.${statuses.length % 256}`;
      statuses.push(...await Promise.all(Array.from({ length: 10 }, () => open(URL, forged))));
    }
    const refused = statuses.filter(({ status }) => status === 503);
    assert.ok(refused.length > 0, `${statuses.length} connections of one address were let in`);
    // Prometheus has an address of its own.
    const balancer = await address('loadbalancer');
    const elsewhere = await tell(undefined, 'prometheus', 'wget', '-q', '-O', '-', `http://${balancer}:8080/socket.io/?EIO=4&transport=polling`);
    assert.match(elsewhere, /"sid"/, 'another address is let in at the same time');
    return `${statuses.length - refused.length} let in, ${refused.length} refused`;
  },

  // A changed configuration costs nobody a WebSocket, which the old process keeps. The new one has forgotten whose node is
  // where, so that clients that poll come back with a new session.
  async reload(stage) {
    const crowd = new Crowd(stage, URL, 'reload');
    await crowd.admit(8);
    await compose('kill', '--signal', 'HUP', 'loadbalancer');
    await pause(RELOADED_MS);
    await rotation(GATEWAYS);
    await crowd.complete();
    await crowd.hearEachOther();
    const [moved, stayed] = [true, false].map((polls) => crowd.members.filter(({ way }) => (way === 'polling') === polls));
    for (const { user, absences } of stayed) assert.deepEqual(absences, [], `${user} stays`);
    const absences = moved.flatMap((member) => member.absences);
    assert.ok(Math.max(0, ...absences) < BACK_AFTER_DEATH_MS, `a poll was away for ${Math.max(...absences)} ms`);
    return `${stayed.length} stayed, ${absences.length} of ${moved.length} polling clients came back, after ${Math.max(0, ...absences)} ms at the latest`;
  },

  async metrics() {
    for (const gateway of await gateways()) {
      await tell(await gateway.metrics(), 'prometheus', 'promtool', 'check', 'metrics');
    }
    await tell(undefined, 'loadbalancer', 'haproxy', '-c', '-f', '/usr/local/etc/haproxy/haproxy.cfg');
    assert.equal(await query('up{job="loadbalancer"}'), 1, 'Prometheus sees the balancer');
  },

  nginx: (stage) => behind('nginx', stage),

  // deploy/envoy/envoy.yaml, where there is an Envoy to try it with.
  envoy: (stage) => (process.env.CLUSTER_ENVOY ? behind('envoy', stage) : NOT_EXERCISED),
};

let passed = 0;

/** Seconds that a step may take. */
const LIMIT_S = 180;

const lastBack = (members) => Math.max(...members.map(({ readyAt }) => readyAt));

/** The example of another load balancer, with the three nodes that it names: clients of every kind, and one node drained. */
async function behind(balancer, stage) {
  await compose('up', '--detach', '--wait', '--no-build', balancer, ...NAMED);
  const url = `http://${await address(balancer)}:8080`;
  // It may take a while until it has found all of them.
  const found = new Set();
  await until(`${balancer} knows all nodes`, async () => {
    const { body } = await request(engineAddress(url, { transport: 'polling' })).catch(() => ({ body: '' }));
    found.add(/"sid":"[\w-]{20}(gw-\d)"/.exec(body)?.[1]);
    return NAMED.every((node) => found.has(node));
  }, PATIENCE_MS);
  const crowd = new Crowd(stage, url, balancer);
  await crowd.admit(8);
  assert.deepEqual([...crowd.nodes].sort(), NAMED, 'clients are on all nodes');
  await crowd.hearEachOther();
  crowd.isUntroubled();
  if (balancer === 'nginx') await frozenBehind(url, stage);
  const [leaving] = await gateways('gw-2');
  const struck = crowd.on(leaving.node);
  const from = Date.now();
  const stopped = leaving.stop();
  await until('the node is not ready', async () => (await leaving.readiness()) === 503);
  for (const way of Object.values(WAYS)) {
    for (let i = 0; i < 3; i += 1) await connect(stage, url, { ...way, reconnection: false });
  }
  assert.equal((await stopped).exitCode, 0);
  await crowd.complete();
  await crowd.hearEachOther();
  return `${struck.length} clients, back ${lastBack(struck) - from} ms after the drain began at the latest`;
}

/** A node that hangs behind nginx, which asks nobody: its newcomers get in elsewhere, and soon nobody is sent to it. */
async function frozenBehind(url, stage) {
  const [frozen] = await gateways('gw-1');
  await frozen.pause();
  try {
    const handshake = () => request(engineAddress(url, { transport: 'polling' }));
    for (const { status, body } of await Promise.all(Array.from({ length: 9 }, handshake))) {
      assert.equal(status, 200);
      assert.doesNotMatch(body, /gw-1"/);
    }
    const socket = await connect(stage, url, { reconnection: false });
    assert.notEqual(socket.io.engine.id.slice(20), 'gw-1');
  } finally {
    await frozen.unpause();
  }
  await until('it gets newcomers again', async () => (await request(engineAddress(url, { transport: 'polling' }))).body.includes('gw-1"'), PATIENCE_MS);
}

async function api(gateway, path) {
  const headers = { authorization: `Bearer ${process.env.CLUSTER_API_KEY}` };
  return JSON.parse((await request(`${gateway.admin}/api/v1${path}`, { headers })).body);
}

async function perform(name) {
  const from = Date.now();
  const stage = new Stage();
  const seconds = () => `${String(Math.round((Date.now() - from) / 1000)).padStart(4)} s`;
  try {
    const found = await limited(`the step "${name}"`, STEPS[name](stage), LIMIT_S * 1_000);
    if (found === NOT_EXERCISED) return console.log(`NOT EXERCISED: ${name}`);
    passed += 1;
    console.log(`ok    ${seconds()}  ${name}${found ? `: ${found}` : ''}`);
  } catch (failure) {
    console.log(`FAIL  ${seconds()}  ${name}: ${failure.stack}`);
    console.log(await docker('compose', '--ansi', 'never', '--profile', 'others', 'logs', '--no-color', '--tail', '40').catch(({ message }) => message));
    process.exit(1);
  } finally {
    await stage.close();
  }
}

const wanted = process.env.CLUSTER_STEPS?.split(/\s+/).filter(Boolean) ?? Object.keys(STEPS);
for (const name of wanted) {
  if (!(name in STEPS)) throw new Error(`no such step: ${name}`);
}
for (const name of wanted) await perform(name);
for (const name of Object.keys(STEPS)) {
  if (!wanted.includes(name)) console.log(`NOT EXERCISED, because of CLUSTER_STEPS: ${name}`);
}
writeFileSync(process.argv[2], `${passed}`);
process.exit(0);
