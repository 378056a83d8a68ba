// Official clients with default options, each of which comes back by itself, is in one room, and keeps account of what it
// got there and of how long it was away.

import assert from 'node:assert/strict';
import { ask, client, POLLING, WEBSOCKET } from '../interop/lib/client.mjs';
import { pause, until } from '../interop/lib/wait.mjs';

/** The ways in which official clients connect. Without options they poll first, and then upgrade. */
export const WAYS = { default: {}, websocket: WEBSOCKET, polling: POLLING };

/** Characters of a sid in front of the id of its node. */
const SECRET = 20;

/** What may be in the room a moment after everybody has everything: repetitions. */
const AFTERMATH_MS = 300;

let named = 0;
let told = 0;

export class Member {
  /** By number, how often it was given that piece of news. */
  given = new Map();
  isReady = false;
  /** When it last went away, from which node, and why. */
  leftAt = 0;
  leftFrom = null;
  leftBy = null;
  /** Milliseconds of each absence. */
  absences = [];
  /** What went wrong on the way in, with which it coped. */
  failures = [];

  constructor(stage, url, way, room, auth = { user: `member-${(named += 1)}` }) {
    this.way = way;
    this.user = auth.user;
    this.socket = client(stage, url, { ...WAYS[way], auth });
    this.socket.on('news', (number) => this.given.set(number, (this.given.get(number) ?? 0) + 1));
    this.socket.on('connect', async () => {
      // With default options the engine is another one after each return.
      this.node = this.socket.io.engine.id.slice(SECRET);
      const { ok } = await ask(this.socket, 'join', room).catch(() => ({ ok: false }));
      if (!ok) return;
      this.isReady = true;
      this.readyAt = Date.now();
      if (this.leftAt > 0) this.absences.push(Date.now() - this.leftAt);
    });
    this.socket.on('connect_error', ({ message }) => this.failures.push(message));
    this.socket.on('disconnect', (reason) => {
      this.leftBy = reason;
      this.leftAt = Date.now();
      this.leftFrom = this.node;
      this.isReady = false;
    });
  }

  get transport() {
    return this.socket.io.engine.transport.name;
  }
}

export class Crowd {
  members = [];

  constructor(stage, url, room) {
    Object.assign(this, { stage, url, room });
  }

  /** Lets `each` clients of every way in, and waits for them, and for the upgrades of those that upgrade. */
  async admit(each, ways = Object.keys(WAYS)) {
    for (const way of ways) {
      for (let i = 0; i < each; i += 1) this.members.push(new Member(this.stage, this.url, way, this.room));
    }
    await this.complete();
    const settled = (member) => member.transport === (member.way === 'polling' ? 'polling' : 'websocket');
    await until('everybody uses the transport that they are to use', () => this.members.every(settled), 20_000);
  }

  /** Nobody had to try twice, and nobody was sent away. */
  isUntroubled() {
    for (const { user, way, failures, absences } of this.members) {
      assert.deepEqual([failures, absences], [[], []], `${user}, ${way}, had no trouble`);
    }
  }

  /** Everybody is in the room, and the milliseconds that it took. */
  async complete(within = 30_000) {
    const from = Date.now();
    await until(`all ${this.members.length} members are there`, () => this.members.every(({ isReady }) => isReady), within);
    return Date.now() - from;
  }

  on(node) {
    return this.members.filter((member) => member.node === node);
  }

  /** Which nodes they are on. */
  get nodes() {
    return new Set(this.members.map(({ node }) => node));
  }

  async publish(member) {
    told += 1;
    const number = told;
    const answer = await ask(member.socket, 'publish', { room: this.room, event: 'news', data: number });
    return { number, ...answer };
  }

  /** On every node somebody tells everybody something, and everybody else has it once. */
  async hearEachOther() {
    for (const node of this.nodes) {
      const [speaker] = this.on(node);
      const { number, ok } = await this.publish(speaker);
      assert.ok(ok, `a member on ${node} could not publish`);
      const others = this.members.filter((member) => member !== speaker);
      await until(`what was said on ${node} is everywhere`, () => others.every(({ given }) => given.has(number)));
    }
    await pause(AFTERMATH_MS);
    this.heardNothingTwice();
  }

  heardNothingTwice() {
    for (const { user, given } of this.members) {
      for (const [number, times] of given) assert.equal(times, 1, `${user} got number ${number} ${times} times`);
    }
  }
}

/** The most of `times` (in milliseconds) that fall into any one second. */
export function busiestSecond(times) {
  const sorted = [...times].sort((one, other) => one - other);
  return Math.max(0, ...sorted.map((from, at) => sorted.slice(at).filter((time) => time < from + 1_000).length));
}
