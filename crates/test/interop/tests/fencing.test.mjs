// Nodes that cannot hear: frozen, cut off from Redis, or with evictions that never reached them. What their displaced
// sessions do, and are given, is judged by the ledger (lib/ledger.mjs); they speak all the time.
//
// Cutting a node off takes network namespaces, and so root: without it those tests fail.

import assert from 'node:assert/strict';
import { describe, test } from '../lib/test.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { startRedis } from '../lib/redis.mjs';
import { Cell, MISSING } from '../lib/cell.mjs';
import { Ledger } from '../lib/ledger.mjs';
import { Visitor, visit } from '../lib/visitor.mjs';
import { ask, client, connected, inbox, WEBSOCKET } from '../lib/client.mjs';
import { limited, pause, until } from '../lib/wait.mjs';

const SETTINGS = { cluster: { pulse_interval_ms: 100, fence_after_ms: 800 }, sessions: { lease_ttl_ms: 2_000, lease_renew_ms: 500 } };

/** For outages within a lease. */
const LONG_LEASE = { cluster: { pulse_interval_ms: 100, fence_after_ms: 1_500 }, sessions: { lease_ttl_ms: 20_000, lease_renew_ms: 500 } };

const RECOVERY_MS = 15_000;
const SPEAK_EVERY_MS = 10;
const QUICK = { reconnectionDelay: 50, reconnectionDelayMax: 200 };

const isReady = async (node) => (await node.status('/readyz')).status === 200;

/** Two nodes, of which the first, `deaf`, is the one things happen to; `cat` and `bob` are in the room on either. */
class Play {
  ledger = new Ledger();
  #speakers = [];

  static async begin(stage, { cell, settings = SETTINGS } = {}) {
    const play = new Play();
    const redis = await startRedis(stage, { addresses: cell ? [cell.redisAddress] : [] });
    const look = await redis.client(stage);
    Object.assign(play, { stage, redis, look });
    play.deaf = await startTidegate(stage, { redis, settings, cell });
    // Of the first node alone, so that they can be told apart later.
    play.subscriptions = await play.subscribers();
    play.hearing = await startTidegate(stage, { redis, settings });
    play.nodeId = play.deaf.ready[0].node;
    play.old = await play.#official(play.deaf, 'ann');
    play.cat = await play.#official(play.deaf, 'cat');
    play.bob = await play.visitor(play.hearing, 'bob');
    const speaking = setInterval(() => play.#speakers.forEach((each) => play.#speak(each)), SPEAK_EVERY_MS);
    stage.defer(() => clearInterval(speaking));
    await play.exchange(play.old);
    return play;
  }

  /** An official client that would come back if it were not told to stay away. */
  async #official(node, user) {
    const socket = client(this.stage, node.url, { ...WEBSOCKET, ...QUICK, auth: { user } });
    Object.assign(socket, { drops: inbox(socket, 'disconnect'), evictions: inbox(socket, 'evicted') });
    this.ledger.followSocket(socket, user);
    socket.on('connect', () => socket.emit('join', 'r', () => {}));
    await connected(socket);
    assert.equal((await ask(socket, 'join', 'r')).ok, true);
    this.#speakers.push(socket);
    return socket;
  }

  async visitor(node, user) {
    const visitor = new Visitor(this.stage, node.url, { user });
    this.ledger.follow(visitor, user);
    await limited('CONNECT is answered', visitor.connected, RECOVERY_MS);
    // Whoever is displaced at once hears nothing of this.
    visitor.request('join', 'r', () => {});
    this.#speakers.push(visitor);
    return visitor;
  }

  #speak(speaker) {
    if (speaker.account === undefined) return;
    this.ledger.publish(speaker, 'r');
    this.ledger.heartbeat(speaker);
  }

  /** A good deal is said and acknowledged, by `speaker` too. */
  async exchange(speaker = this.bob) {
    const { delivered, acknowledged } = this.ledger;
    const before = speaker.account.acknowledged;
    const isEnough = () => this.ledger.delivered > delivered + 20 && this.ledger.acknowledged > acknowledged + 20 && speaker.account.acknowledged > before;
    await until('a good deal is said', isEnough, RECOVERY_MS);
  }

  async subscribers() {
    const list = await this.look.sendCommand(['CLIENT', 'LIST', 'TYPE', 'pubsub']);
    return [...list.matchAll(/^id=(\d+)/gm)].map(([, id]) => id);
  }

  /** Whatever is sent to the deaf node's own channel reaches nobody from now on. */
  async dropEvictions() {
    for (const id of this.subscriptions) await this.look.sendCommand(['CLIENT', 'KILL', 'ID', id]);
    const [, count] = await this.look.sendCommand(['PUBSUB', 'NUMSUB', `tidegate:{node:${this.nodeId}}:ch`]);
    assert.equal(Number(count), 0);
  }

  /** The lease of the deaf node is over, and the other one has taken over what it had. */
  async reaped() {
    await until('taken over', async () => (await this.hearing.metric('tidegate_reaped_total', { what: 'nodes' })) > 0, RECOVERY_MS);
  }

  /** How many sessions, and marks of such, the place of `user` has in Redis. */
  rows(user) {
    return this.look.hLen(`tidegate:{/|${user}}:sessions`);
  }

  takeOver() {
    return this.visitor(this.hearing, 'ann');
  }

  async assertOldIsTold(winner = this.hearing) {
    const [{ reason, by }] = await this.old.evictions.next('evicted', RECOVERY_MS);
    assert.equal(reason, 'replaced');
    assert.equal(by.node, winner.ready[0].node);
    assert.deepEqual((await this.old.drops.next('disconnect', RECOVERY_MS))[0], 'io server disconnect');
    assert.equal(this.old.active, false, 'it stays away');
    assert.equal(this.old.evictions.waiting + this.old.drops.waiting, 0, 'and that was all it was told');
  }

  /** Everybody else is there, or again, and everything flows in both directions. */
  async assertFlows(...others) {
    await until('ready again', () => isReady(this.deaf), RECOVERY_MS);
    await until('cat is there', () => this.cat.connected, RECOVERY_MS);
    for (const speaker of [this.cat, this.bob, ...others]) await this.exchange(speaker);
    assert.deepEqual(this.ledger.violations(), []);
  }
}

describe('a frozen node', { skip: TIDEGATE_ONLY, concurrency: 3 }, () => {
  for (const evictions of ['', ', its evictions dropped']) {
    for (const moment of ['before its lease ends', 'after it was taken for dead']) {
      test(`its session is taken over ${moment}${evictions}`, async (t) => {
        const play = await Play.begin(stageOf(t));
        await play.deaf.freeze(play.stage);
        if (evictions) await play.dropEvictions();
        let young = moment === 'before its lease ends' ? await play.takeOver() : null;
        await play.reaped();
        young ??= await play.takeOver();
        await play.exchange(young);
        play.deaf.thaw();
        await play.assertOldIsTold();
        await play.assertFlows(young);
        assert.ok(young.isOpen && !young.account.wasTold);
      });
    }

    test(`the winner has left again before it thaws${evictions}`, async (t) => {
      const play = await Play.begin(stageOf(t));
      await play.deaf.freeze(play.stage);
      if (evictions) await play.dropEvictions();
      const young = await play.takeOver();
      await play.exchange(young);
      young.end();
      await play.reaped();
      play.deaf.thaw();
      await play.assertOldIsTold();
      await play.assertFlows();
    });
  }

  test('for less than its fence: nothing changes for anybody', async (t) => {
    const play = await Play.begin(stageOf(t), { settings: LONG_LEASE });
    await play.deaf.freeze(play.stage);
    await pause(300);
    play.deaf.thaw();
    await play.assertFlows(play.old);
    assert.equal(play.old.drops.waiting + play.cat.drops.waiting, 0);
  });
});

describe('a node cut off from Redis', { skip: TIDEGATE_ONLY, needs: MISSING, concurrency: 3 }, () => {
  for (const hasLeft of [false, true]) {
    test(`for longer than its lease${hasLeft ? ', and the winner has left again' : ''}`, async (t) => {
      const stage = stageOf(t);
      const cell = await Cell.open(stage);
      const play = await Play.begin(stage, { cell });
      await cell.cut();
      const young = await play.takeOver();
      await play.exchange(young);
      assert.equal(play.old.connected, true, 'its client is not told anything yet');
      if (hasLeft) young.end();
      await play.reaped();
      assert.equal(await isReady(play.deaf), false);
      await cell.heal();
      await play.assertOldIsTold();
      await play.assertFlows(...(hasLeft ? [] : [young]));
    });
  }

  test('for less than its fence: nothing changes for anybody', async (t) => {
    const stage = stageOf(t);
    const cell = await Cell.open(stage);
    const play = await Play.begin(stage, { cell, settings: LONG_LEASE });
    const heard = inbox(play.cat);
    const said = [];
    play.cat.io.engine.on('close', () => said.push('closed'));
    await cell.cut();
    const acks = Array.from({ length: 10 }, (_, i) => ask(play.old, 'publish', { room: 'elsewhere', data: i }));
    await pause(300);
    await cell.heal();
    for (const ack of await Promise.all(acks)) assert.equal(ack.ok, true);
    await play.assertFlows(play.old);
    assert.equal(play.old.drops.waiting + play.cat.drops.waiting, 0);
    assert.deepEqual(said, []);
    assert.ok(heard.waiting > 0);
  });

  test('for some seconds, and nobody takes over: red, then green, and everybody is there', async (t) => {
    const stage = stageOf(t);
    const cell = await Cell.open(stage);
    const play = await Play.begin(stage, { cell, settings: LONG_LEASE });
    await cell.cut();
    await until('readiness is red', async () => !(await isReady(play.deaf)), RECOVERY_MS);
    // Events are held for some time first.
    const refusal = await play.old.timeout(RECOVERY_MS).emitWithAck('publish', { room: 'elsewhere', data: 0 });
    assert.equal(refusal.error?.code, 'unavailable');
    assert.equal(await isReady(play.deaf), false);
    await cell.heal();
    await until('ann is there', () => play.old.connected, RECOVERY_MS);
    await play.assertFlows(play.old);
    for (const socket of [play.old, play.cat]) {
      assert.equal(socket.evictions.waiting, 0);
      for (const [reason] of socket.drops.drain()) assert.equal(reason, 'transport close');
    }
  });

  // Within the fence of a node that is cut off, its sessions still act, and what they publish waits on the way to Redis.
  test('a newcomer that is displaced while it waits for the node passes its wait on', async (t) => {
    const stage = stageOf(t);
    const cell = await Cell.open(stage);
    const play = await Play.begin(stage, { cell, settings: LONG_LEASE });
    await cell.cut();
    const youngs = await Promise.all([1, 2, 3].map(() => play.takeOver()));
    await cell.heal();
    await play.assertOldIsTold();
    const left = () => youngs.filter(({ isOpen, account }) => isOpen && !account.wasTold);
    await until('one is left', () => left().length === 1);
    await play.assertFlows(left()[0]);
  });

  test('a newcomer that gives up while it waits for the node leaves the wait to the next', async (t) => {
    const stage = stageOf(t);
    const cell = await Cell.open(stage);
    const play = await Play.begin(stage, { cell, settings: LONG_LEASE });
    await cell.cut();
    const hasty = new Visitor(stage, play.hearing.url, { user: 'ann' });
    await until('its claim is made', async () => (await play.rows('ann')) === 2);
    hasty.end();
    await until('its claim is given back', async () => (await play.rows('ann')) === 1);
    const young = await play.takeOver();
    await cell.heal();
    await play.assertOldIsTold();
    await play.assertFlows(young);
  });

  test('a newcomer that is sent away by a drain while it waits for the node leaves the wait to the next', async (t) => {
    const stage = stageOf(t);
    const cell = await Cell.open(stage);
    const play = await Play.begin(stage, { cell, settings: LONG_LEASE });
    const leaving = await startTidegate(stage, { redis: play.redis, settings: LONG_LEASE });
    await cell.cut();
    const hasty = new Visitor(stage, leaving.url, { user: 'ann' });
    await until('its claim is made', async () => (await play.rows('ann')) === 2);
    leaving.signal('SIGTERM');
    await until('its claim is given back', async () => (await play.rows('ann')) === 1, RECOVERY_MS);
    assert.equal(hasty.id, undefined, 'it was never answered');
    const young = await play.takeOver();
    await cell.heal();
    await play.assertOldIsTold(leaving);
    await play.assertFlows(young);
    await leaving.exited();
  });
});

test('what a frozen node had is not in the way of an anonymous visitor', { skip: TIDEGATE_ONLY }, async (t) => {
  const play = await Play.begin(stageOf(t));
  await play.deaf.freeze(play.stage);
  assert.equal((await (await visit(play.stage, play.hearing.url, {})).ask('heartbeat', null)).ok, true);
  play.deaf.thaw();
  await play.assertFlows();
});
