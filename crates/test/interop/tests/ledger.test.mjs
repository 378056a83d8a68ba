// Duplicate logins without a pause, over three processes: whoever was displaced is silent when the newcomer is answered.
//
// Bare clients on WebSockets, not official ones: hundreds of connections a second, in the one process whose counter
// orders everything (see lib/ledger.mjs), leave no room for more. They are worse than official ones: those who are
// displaced go on publishing, half of them on a transport that another namespace keeps open.

import assert from 'node:assert/strict';
import { test } from '../lib/test.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { startRedis } from '../lib/redis.mjs';
import { Guest } from '../lib/guest.mjs';
import { Ledger } from '../lib/ledger.mjs';
import { Visitor } from '../lib/visitor.mjs';
import { pause, until } from '../lib/wait.mjs';

const SECONDS = Number(process.env.LEDGER_SECONDS ?? 10);
const LOGINS_PER_SECOND = 200;
const USERS = 20;
const ROOMS = 4;

/** What everybody who is there publishes, beside what each does when it is answered, or learns that it was displaced. */
const PUBLISH_EVERY_MS = 20;

/** Most logins under way; a machine that cannot keep up takes longer for the same number of them. */
const LOGINS_MAX = 60;

/** So many displaced sessions of a user are kept, to go on publishing. */
const STALE_MAX = 3;

const CONFIG = `
[namespaces."/"]
sessions.policy = "single"
[namespaces."/other"]
`;

const SETTLED_WITHIN_MS = 20_000;

const percentile = (sorted, part) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))];

class Crowd {
  ledger = new Ledger();
  /** Milliseconds from a newcomer's CONNECT to its predecessor's DISCONNECT. */
  latencies = [];
  #users = Array.from({ length: USERS }, (_, i) => ({ name: `user ${i}`, room: `room ${i % ROOMS}`, visitors: [] }));
  #devices = new Map();
  #underWay = 0;
  refused = [];

  constructor(stage, urls) {
    Object.assign(this, { stage, urls });
  }

  get isFull() {
    return this.#underWay >= LOGINS_MAX;
  }

  get isIdle() {
    return this.#underWay === 0;
  }

  /** One more session of some user on some node. Its device names it, since the event that displaces tells the device. */
  login(number) {
    const user = this.#users[Math.floor(Math.random() * USERS)];
    const url = this.urls[Math.floor(Math.random() * this.urls.length)];
    // A third speaks the plain protocol, in turn in either format.
    const Kind = number % 3 === 0 ? Guest : Visitor;
    const visitor = new Kind(this.stage, url, { user: user.name, device: `${number}` }, { isPacked: number % 2 === 0 });
    this.#devices.set(visitor.auth.device, visitor);
    this.ledger.follow(visitor, user.name);
    this.#underWay += 1;
    visitor.connected.then(
      () => this.#answered(user, visitor, number),
      (failure) => this.refused.push(failure.message),
    ).finally(() => (this.#underWay -= 1));
    visitor.on('event', (name, told) => {
      if (name !== 'evicted') return;
      assert.equal(told.reason, 'replaced');
      const winner = this.#devices.get(told.by.device);
      visitor.once('disconnect', () => this.latencies.push(performance.now() - winner.connectSentAt));
    });
  }

  #answered(user, visitor, number) {
    // At this moment everybody else of the user is silent: all try to speak, and to be spoken to.
    if (number % 2 === 0) visitor.linger();
    visitor.request('join', user.room, () => this.ledger.publish(visitor, user.room));
    this.ledger.publish(visitor, user.room);
    for (const other of user.visitors) this.#speak(user, other);
    user.visitors.push(visitor);
    const stale = user.visitors.filter(({ account, isOpen }) => account.wasTold || !isOpen);
    const dropped = new Set(stale.slice(0, -STALE_MAX));
    dropped.forEach((each) => each.end());
    user.visitors = user.visitors.filter((each) => !dropped.has(each));
  }

  #speak(user, visitor) {
    this.ledger.publish(visitor, user.room);
    this.ledger.heartbeat(visitor);
  }

  /** Everybody says something, also who was told to go and whose transport is still there. */
  speak() {
    for (const user of this.#users) for (const visitor of user.visitors) if (visitor.isOpen) this.#speak(user, visitor);
  }

  /** The visitors who may still think that they are there. */
  get left() {
    return this.#users.map(({ visitors }) => visitors.filter(({ account, isOpen }) => isOpen && !account.wasTold));
  }
}

test(`${LOGINS_PER_SECOND} duplicate logins a second for ${SECONDS} s`, { skip: TIDEGATE_ONLY, timeout: (3 * SECONDS + 60) * 1_000 }, async (t) => {
  const stage = stageOf(t);
  const redis = await startRedis(stage);
  const settings = { sessions: { lease_ttl_ms: 2_000, lease_renew_ms: 600 } };
  const nodes = await Promise.all([1, 2, 3].map(() => startTidegate(stage, { redis, config: CONFIG, settings })));
  const crowd = new Crowd(stage, nodes.map(({ url }) => url));
  const speaking = setInterval(() => crowd.speak(), PUBLISH_EVERY_MS);
  stage.defer(() => clearInterval(speaking));

  const total = SECONDS * LOGINS_PER_SECOND;
  const began = performance.now();
  for (let logins = 0; logins < total; ) {
    const due = Math.min(total, ((performance.now() - began) / 1_000) * LOGINS_PER_SECOND);
    for (; logins < due && !crowd.isFull; logins += 1) crowd.login(logins);
    await pause(5);
  }
  const took = (performance.now() - began) / 1_000;
  await until('every login is answered', () => crowd.isIdle, SETTLED_WITHIN_MS);
  await until('one session of each user is left', () => crowd.left.every(({ length }) => length === 1), SETTLED_WITHIN_MS);
  clearInterval(speaking);
  for (const [survivor] of crowd.left) assert.equal((await survivor.ask('heartbeat', null)).ok, true);

  const { ledger, latencies } = crowd;
  latencies.sort((a, b) => a - b);
  const quick = (part) => percentile(latencies, part).toFixed(1);
  t.diagnostic(`${total} logins in ${took.toFixed(1)} s, ${latencies.length} displaced; ${ledger.published} publishes, ${ledger.acknowledged} acknowledgements, ${ledger.delivered} deliveries`);
  t.diagnostic(`from a CONNECT to its predecessor's DISCONNECT: p50 ${quick(0.5)} ms, p99 ${quick(0.99)} ms`);
  assert.deepEqual(crowd.refused, []);
  assert.deepEqual(ledger.violations(), []);
  // What makes that mean something.
  assert.ok(latencies.length > total / 2, 'most logins displaced somebody');
  assert.ok(ledger.acknowledged > total && ledger.delivered > total, 'and all the time something was said');
});
