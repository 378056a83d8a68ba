// Durable messages while everything breaks: users come and go on any node, and nothing that was promised is lost, put
// out of order, or given again once its acknowledgement was confirmed.
//
// Bare clients, as in ledger.test.mjs. Redis keeps everything it confirms (appendonly yes, appendfsync always), so that
// it may be killed. `SEED` replays who does what when; what the machine makes of it may differ.

import assert from 'node:assert/strict';
import { test } from '../lib/test.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { startRedis } from '../lib/redis.mjs';
import { Chance, SEED } from '../lib/chance.mjs';
import { Guest } from '../lib/guest.mjs';
import { Mail } from '../lib/mail.mjs';
import { Visitor } from '../lib/visitor.mjs';
import { limited, pause, until } from '../lib/wait.mjs';

const SECONDS = Number(process.env.MAIL_SECONDS ?? 15);
const USERS = 500;
const SENDERS = 10;
/** Between two letters of one sender. */
const SEND_EVERY_MS = 40;
const ANSWER_WITHIN_MS = 4_000;
const SETTLED_WITHIN_MS = 60_000;

const SETTINGS = {
  cluster: { pulse_interval_ms: 100, fence_after_ms: 500 },
  sessions: { lease_ttl_ms: 2_000, lease_renew_ms: 500 },
  offline: { sender_per_minute_max: 0 },
};

/** A Tidegate process that can be killed and come back where it was. */
class Post {
  constructor(stage, redis, id) {
    Object.assign(this, { stage, redis, id });
  }

  async start() {
    this.node = await startTidegate(this.stage, { redis: this.redis, settings: SETTINGS, nodeId: this.id, port: this.port });
    this.port = this.node.port;
    return this;
  }

  get url() {
    return this.node.url;
  }
}

class Town {
  mail = new Mail();
  isOpen = true;
  /** Logins while the one before was still connected, and what that one acknowledged all the same. */
  overlaps = 0;
  lateSettles = 0;
  #homes = [];

  constructor(stage, posts) {
    Object.assign(this, { stage, posts });
  }

  /** A client of `user` that is connected, or null. `meanwhile` is done when its login is on its way. */
  async #connected(user, chance, meanwhile = () => {}) {
    const Kind = chance.is(0.4) ? Guest : Visitor;
    const visitor = new Kind(this.stage, chance.one(this.posts).url, { user, device: 'phone' }, { isPacked: chance.is(0.5) });
    visitor.on('connecting', meanwhile);
    try {
      await limited('CONNECT is answered', visitor.connected, ANSWER_WITHIN_MS);
      return visitor;
    } catch {
      visitor.end();
      return null;
    }
  }

  /**
   * Takes what comes until it is told to leave. Some acknowledge everything, some a part, with and without haste.
   * `late` acknowledges the rest.
   */
  #receive(user, visitor, chance, share) {
    const acknowledged = [];
    const held = [];
    visitor.on('event', (name, first, second, third) => {
      const letter = name === 'offline_message' ? { text: first.data, acknowledge: second } : name === 'message' ? { text: first, acknowledge: third } : null;
      if (letter === null) return;
      this.mail.receive(letter.text, user);
      const settle = () => {
        if (!visitor.isOpen) return;
        letter.acknowledge();
        acknowledged.push(letter.text);
      };
      if (!chance.is(share)) held.push(settle);
      else if (chance.is(0.5)) settle();
      else setTimeout(settle, chance.between(0, 100)).unref();
    });
    // What was acknowledged before a heartbeat is settled when that is answered.
    const beat = () => {
      const before = acknowledged.splice(0);
      visitor.request('heartbeat', null, ({ ok }) => ok && before.forEach((text) => this.mail.confirm(text)));
    };
    const late = () => {
      this.lateSettles += visitor.isOpen ? held.length : 0;
      held.splice(0).forEach((settle) => settle());
      beat();
    };
    visitor.request('online', {}, () => {});
    return { visitor, beat, late };
  }

  /** Comes and goes until the town closes; at times without having left. */
  async live(user) {
    const chance = new Chance(user);
    let before = null;
    while (this.isOpen) {
      await pause(chance.between(0, before === null ? 4_000 : 100));
      const visitor = this.isOpen && (await this.#connected(user, chance, () => before?.late()));
      if (!visitor) continue;
      const stay = this.#receive(user, visitor, chance, chance.is(0.2) ? 0.5 : 1);
      if (before !== null) {
        this.overlaps += 1;
        // It has lost its place, but may not have been told.
        before.late();
        await pause(50);
        before.visitor.end();
        before = null;
      }
      const until = performance.now() + chance.between(100, 3_000);
      while (performance.now() < until && visitor.isOpen) {
        await pause(chance.between(50, 400));
        stay.beat();
      }
      if (chance.is(0.15)) before = stay;
      // Nobody says goodbye. What is still on its way to it is lost.
      else visitor.end();
    }
    before?.visitor.end();
  }

  /** Sends one letter after the other, each until it is promised. */
  async write(sender, recipients) {
    const chance = new Chance(sender);
    let visitor = null;
    for (let number = 0; this.isOpen; number += 1) {
      const recipient = chance.one(recipients);
      const text = Mail.name(sender, number);
      this.mail.write(sender, number, recipient);
      // Also when the town closes meanwhile: an answer that is lost is asked for again under the same key.
      for (;;) {
        visitor ??= await this.#connected(sender, chance);
        const answer = visitor && (await visitor.ask('send', { to: recipient, data: text, id: text }, ANSWER_WITHIN_MS).catch(() => null));
        if (answer?.ok) break;
        assert.ok([undefined, 'unavailable'].includes(answer?.error.code), JSON.stringify(answer));
        visitor?.end();
        visitor = null;
        await pause(100);
      }
      this.mail.promise(text);
      await pause(chance.between(0, 2 * SEND_EVERY_MS));
    }
    visitor?.end();
  }

  /** Everybody comes home, and takes and acknowledges what is left. */
  async gather(users) {
    const homes = users.map(async (user) => {
      const chance = new Chance(`${user}, at last`);
      const visitor = await until(`${user} is at home`, () => this.#connected(user, chance), SETTLED_WITHIN_MS);
      const emptied = new Promise((resolve) => visitor.on('event', (name) => name === 'offline_message_ack' && resolve()));
      const { beat } = this.#receive(user, visitor, chance, 1);
      await limited(`the backlog of ${user} ends`, emptied, SETTLED_WITHIN_MS);
      await pause(150);
      beat();
      this.#homes.push(visitor);
    });
    await Promise.all(homes);
  }

  leave() {
    this.#homes.forEach((visitor) => visitor.end());
  }
}

test(`${SENDERS} senders and ${USERS} users for ${SECONDS} s, seed ${SEED}`, { skip: TIDEGATE_ONLY, timeout: (2 * SECONDS + 150) * 1_000 }, async (t) => {
  const stage = stageOf(t);
  const redis = await startRedis(stage, { durable: true });
  const posts = await Promise.all(['gw-0', 'gw-1', 'gw-2'].map((id) => new Post(stage, redis, id).start()));
  const town = new Town(stage, posts);
  const users = Array.from({ length: USERS }, (_, i) => `user ${i}`);
  const lives = users.map((user) => town.live(user));
  const senders = Array.from({ length: SENDERS }, (_, i) => town.write(`sender ${i}`, users));
  const work = Promise.all([...lives, ...senders]);
  work.catch(() => {});

  const part = (SECONDS * 1_000) / 4;
  await pause(part);
  await posts[0].node.kill();
  await pause(part / 4);
  await posts[0].start();
  await pause((part * 3) / 4);
  await redis.kill();
  await pause(Math.min(2_000, part / 4));
  await redis.start();
  await pause((part * 3) / 4);
  // For longer than its lease.
  await posts[1].node.freeze(stage);
  await pause(3_500);
  posts[1].node.thaw();
  await pause(part);

  town.isOpen = false;
  await limited('everybody has stopped', work, SETTLED_WITHIN_MS);
  await town.gather(users);
  const { mail } = town;
  await until('everything is confirmed', () => mail.missing.length === 0 || mail.violations.length > 0, SETTLED_WITHIN_MS).catch(() => {});
  t.diagnostic(`seed ${SEED}: ${mail.promised} promised, ${mail.received} received, ${mail.repeated} again, ${mail.confirmed} confirmed; ${town.overlaps} takeovers, ${town.lateSettles} acknowledged late`);
  assert.deepEqual(mail.violations, []);
  assert.deepEqual(mail.missing, []);
  // What makes that mean something.
  assert.ok(mail.promised > SECONDS * SENDERS && mail.confirmed > mail.promised / 2, 'letters were sent and confirmed');
  assert.ok(mail.repeated > 0, 'and some came twice');
  assert.ok(town.overlaps > 0 && town.lateSettles > 0, 'some were displaced, and acknowledged then');
  const looked = await redis.client(stage);
  await until('no inbox holds anything', async () => {
    const inboxes = await looked.keys('tidegate:*:inbox');
    const lengths = await Promise.all(inboxes.map((key) => looked.xLen(key)));
    return lengths.every((length) => length === 0);
  }, SETTLED_WITHIN_MS);
  town.leave();
});
