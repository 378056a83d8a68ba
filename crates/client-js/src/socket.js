// The client: what an application asks, and what it is told.

import { bytesIn, stringify } from './binary.js';
import { SocketError } from './fail.js';
import { freshId } from './identity.js';
import { Line } from './line.js';
import { Link } from './link.js';
import { DELAY_MS_MAX, RECONNECT_DEFAULT, RECONNECT_PATIENT, settingsOf } from './options.js';
import { Requests } from './requests.js';
import { Siding } from './siding.js';
import { Surroundings } from './surroundings.js';

/** Messages with a meaning of their own, which are not asked for by `request`. */
const NO_REQUESTS = ['connect', 'ack', 'close'];

/** Refusals after which the same may go well. */
const NOT_NOW = ['rate_limited', 'unavailable'];

/** How often a request that waited is asked again after `rate_limited`. */
const REPETITIONS_MAX = 5;

/** An application's mistake is reported as its own, and not swallowed, and does not stop the client. */
function report(error) {
  if (typeof globalThis.reportError === 'function') globalThis.reportError(error);
  else queueMicrotask(() => {
    throw error;
  });
}

export class Socket {
  static RECONNECT_DEFAULT = RECONNECT_DEFAULT;
  static RECONNECT_PATIENT = RECONNECT_PATIENT;

  #settings;
  #callbacks;
  #link;
  #requests;
  #line;
  /** Of `send`s that the server would not take for now. */
  #siding;
  /** Counts requests. */
  #asked = 0;
  #session = null;
  #user = null;
  #node = null;
  #rooms = new Set();
  /** The last argument of `online` that was granted; undefined if none was. */
  #online;
  /** What is asked by ourselves after a reconnection, by id. */
  #restored = new Map();
  /** Rooms of `join`s whose time was up on this connection, by id. */
  #overdue = new Map();
  /** Counts connections, for what may be acknowledged only on its own. */
  #connection = 0;
  #failure;

  /** Connects at once. Throws TypeError or RangeError for an address or options that cannot be. */
  constructor(path, options = {}, surroundings = Surroundings.here()) {
    const { success, fail, onMessage, onStatus, onLost } = options;
    this.#settings = settingsOf(path, options, surroundings.base);
    this.#callbacks = { success, fail, onMessage, onStatus, onLost };
    const { queueMax, queueBytesMax, payloadBytesMax } = this.#settings;
    this.#requests = new Requests({ countMax: queueMax, bytesMax: queueBytesMax, eachBytesMax: payloadBytesMax });
    const send = ({ text }) => this.#link.send(text);
    this.#line = new Line({ send, skip: (entry) => this.#isGone(entry) || (entry.op === 'send' && this.#siding.take(entry)) });
    this.#siding = new Siding({ send });
    this.#link = new Link(this.#settings, surroundings, {
      status: (status, detail) => this.#changed(status, detail),
      connected: (message, isAgain) => this.#connected(message, isAgain),
      message: (message) => this.#hear(message),
      failed: (failure) => this.#failed(failure),
    });
  }

  /** `connecting`, `connected`, `waiting` for the next try, or `closed` for good. */
  get status() {
    return this.#link.status;
  }

  /** The id of the session, of the latest one while there is none; null before the first. */
  get session() {
    return this.#session;
  }

  get user() {
    return this.#user;
  }

  get node() {
    return this.#node;
  }

  /** `websocket` or `polling`. */
  get transport() {
    return this.#link.kind;
  }

  /** How many requests are not answered. */
  get pending() {
    return this.#requests.size;
  }

  join(room) {
    return this.request('join', { room });
  }

  leave(room) {
    return this.request('leave', { room });
  }

  publish(room, data, { event, echo, volatile } = {}) {
    return this.request('publish', { room, event, data, echo, volatile });
  }

  broadcast(data, { event, echo, volatile } = {}) {
    return this.request('broadcast', { event, data, echo, volatile });
  }

  /** With an `id` of one's own a repetition is recognised even after a restart of the application. */
  send(to, data, { event, id } = {}) {
    return this.request('send', { to, event, data, id });
  }

  online({ ack } = {}) {
    return this.request('online', { ack });
  }

  presence(question) {
    return this.request('presence', { room: question?.room, users: question?.users });
  }

  /**
   * Answered when all that was acknowledged before on this connection is settled. Rejects with `unavailable` if the
   * connection is lost first.
   */
  heartbeat() {
    return this.request('heartbeat');
  }

  emit(event, ...args) {
    return this.request('event', { event, args });
  }

  /**
   * Asks, now or once there is a connection, and again on the next one for as long as no answer came. Rejects with
   * SocketError. Whoever does not look at the promise is not told of that.
   */
  request(op, fields = {}, { timeoutMs } = {}) {
    const answered = new Promise((resolve, reject) => this.#ask(op, fields, timeoutMs, resolve, reject));
    answered.catch(() => {});
    return answered;
  }

  /** Acknowledges what came with that `message`. False if that cannot be sent: then the message comes again. */
  acknowledge(message, ...args) {
    // What is not acknowledged comes again; what waits for the network must not grow for it.
    if (this.status !== 'connected' || this.#link.buffered > this.#settings.queueBytesMax) return false;
    const text = stringify(args.length === 0 ? { op: 'ack', message } : { op: 'ack', message, args });
    return bytesIn(text) <= this.#settings.payloadBytesMax && this.#link.send(text);
  }

  /** For good: nothing is left, what was asked rejects with `closed`, and `fail` is not called. */
  close() {
    if (this.status === 'closed') return;
    this.#link.stop();
    this.#end(new SocketError('closed', 'the client was closed'));
    this.#call('onStatus', 'closed');
  }

  #ask(op, fields, timeoutMs, resolve, reject) {
    if (this.status === 'closed') {
      const { code, message } = this.#failure ?? {};
      return reject(new SocketError('closed', message ?? 'the client was closed', { fail: code }));
    }
    const entry = { id: fields.id ?? freshId(), asked: (this.#asked += 1), op, fields, resolve, reject, repetitions: 0 };
    try {
      if (typeof op !== 'string' || NO_REQUESTS.includes(op)) throw new SocketError('bad_request', `no request: ${op}`);
      if (timeoutMs !== undefined && !(timeoutMs >= 1 && timeoutMs <= DELAY_MS_MAX)) throw new SocketError('bad_request', `timeoutMs is a number from 1 to ${DELAY_MS_MAX}`);
      if (typeof entry.id !== 'string') throw new SocketError('bad_request', 'id is a string');
      if (this.#link.buffered > this.#settings.queueBytesMax) throw new SocketError('queue_full', 'the network takes no more for now');
      entry.text = encode(op, fields, entry.id);
      this.#requests.add(entry);
    } catch (error) {
      return reject(error);
    }
    if (timeoutMs !== undefined) entry.timer = setTimeout(() => this.#late(entry, timeoutMs), timeoutMs);
    if (this.status !== 'connected') return undefined;
    entry.connection = this.#connection;
    return this.#line.add(entry);
  }

  #late(entry, timeoutMs) {
    this.#requests.take(entry.id);
    if (entry.op === 'join') this.#overdue.set(entry.id, entry.fields.room);
    else this.#link.forget(entry.id);
    this.#line.done(entry);
    this.#siding.done(entry);
    entry.reject(new SocketError('timeout', `no answer to ${entry.op} within ${timeoutMs} ms`));
  }

  #changed(status, detail) {
    this.#rest();
    for (const entry of this.#requests.all()) {
      if (entry.op === 'heartbeat' && entry.connection !== undefined) this.#unheard(entry);
    }
    this.#call('onStatus', status, detail);
  }

  #connected({ session, user, node, heartbeat_ms }, reconnected) {
    this.#session = session;
    this.#user = user ?? null;
    this.#node = node ?? null;
    this.#connection += 1;
    const asked = this.#requests.all();
    for (const entry of asked) entry.connection = this.#connection;
    this.#line.begin([...this.#restorations(), ...asked]);
    this.#call('onStatus', 'connected');
    if (this.status !== 'connected') return;
    this.#call('success', { session, user: this.#user, node: this.#node, heartbeat_ms, transport: this.transport, reconnected });
  }

  /** The rooms, then `online`, unless the application asks for that anyway. */
  #restorations() {
    const entries = [...this.#rooms].map((room) => restoration('join', { room }));
    const isAsked = this.#requests.all().some(({ op }) => op === 'online');
    if (this.#online !== undefined && !isAsked) entries.push(restoration('online', this.#online));
    for (const entry of entries) this.#restored.set(entry.id, entry);
    return entries;
  }

  #isGone(entry) {
    if (!entry.isRestoration) return this.#requests.get(entry.id) !== entry;
    return entry.op === 'join' && !this.#rooms.has(entry.fields.room);
  }

  #hear(message) {
    switch (message.op) {
      case 'reply':
        return this.#answer(message);
      case 'event':
        return this.#call('onMessage', message, this.#acknowledgement(message.message));
      case 'offline':
        return this.#call('onMessage', message, this.#acknowledgement(message.id));
      case 'offline_end':
      case 'evicted':
        return this.#call('onMessage', message, () => false);
      default:
        return undefined;
    }
  }

  #acknowledgement(message) {
    let isDue = message !== undefined && !(typeof message === 'string' && this.#online?.ack === 'none');
    const connection = this.#connection;
    return (...args) => {
      // Numbers belong to their connection; of durable messages the server knows at any time whether they wait.
      if (!isDue || (typeof message !== 'string' && connection !== this.#connection)) return false;
      const isSent = this.acknowledge(message, ...args);
      isDue = !isSent;
      return isSent;
    };
  }

  #answer({ op, id, ...reply }) {
    const restored = this.#restored.get(id);
    if (restored !== undefined) return this.#restore(restored, reply);
    const entry = this.#requests.get(id);
    if (entry === undefined) return this.#answerLate(id, reply);
    if (!reply.ok && reply.error.code === 'rate_limited' && this.#repeats(entry)) return undefined;
    this.#requests.take(id);
    clearTimeout(entry.timer);
    if (reply.ok) this.#remember(entry);
    this.#line.done(entry);
    this.#siding.done(entry);
    if (reply.ok) return entry.resolve(reply);
    return entry.reject(new SocketError(reply.error.code, String(reply.error.message ?? reply.error.code)));
  }

  /** Its time was up: the application has been told that it is not in that room, unless it is by another request. */
  #answerLate(id, { ok }) {
    const room = this.#overdue.get(id);
    if (!this.#overdue.delete(id) || !ok || this.#rooms.has(room)) return;
    const isAsked = this.#requests.all().some(({ op, fields }) => op === 'join' && fields.room === room);
    if (!isAsked) this.leave(room);
  }

  /** Whether it is asked again by ourselves, what the server found to be too much. */
  #repeats(entry) {
    if (entry.op === 'send') {
      const isAside = this.#siding.refused(entry);
      // Only now: what comes up in the line is not to overtake it.
      if (isAside) this.#line.done(entry);
      return isAside;
    }
    if (!this.#line.holds(entry) || entry.repetitions >= REPETITIONS_MAX) return false;
    entry.repetitions += 1;
    this.#line.again(entry);
    return true;
  }

  /** A heartbeat on another connection would say nothing of what was acknowledged on the last. */
  #unheard(entry) {
    this.#requests.take(entry.id);
    clearTimeout(entry.timer);
    entry.reject(new SocketError('unavailable', 'the connection was lost before the heartbeat was answered'));
  }

  #remember({ op, fields }) {
    if (op === 'join') this.#rooms.add(fields.room);
    else if (op === 'leave') this.#rooms.delete(fields.room);
    else if (op === 'online') this.#online = fields;
  }

  #restore(entry, { ok, error }) {
    if (!ok && NOT_NOW.includes(error.code)) return this.#line.again(entry);
    this.#restored.delete(entry.id);
    this.#line.done(entry);
    if (ok) return;
    if (entry.op === 'join') this.#rooms.delete(entry.fields.room);
    else this.#online = undefined;
    const lost = { op: entry.op, error: new SocketError(error.code, String(error.message ?? error.code)) };
    this.#call('onLost', entry.op === 'join' ? { ...lost, room: entry.fields.room } : lost);
  }

  #failed(failure) {
    this.#failure = failure;
    this.#end(new SocketError('closed', failure.message, { fail: failure.code, cause: failure.error }));
    this.#call('onStatus', 'closed', failure);
    this.#call('fail', failure);
  }

  /** Nothing is sent, and nothing is waited for that belongs to a connection. */
  #rest() {
    this.#line.stop();
    this.#siding.stop();
    this.#restored.clear();
    this.#overdue.clear();
  }

  #end(error) {
    this.#rest();
    this.#rooms.clear();
    for (const entry of this.#requests.all()) {
      this.#requests.take(entry.id);
      clearTimeout(entry.timer);
      entry.reject(error);
    }
  }

  #call(name, ...args) {
    try {
      this.#callbacks[name]?.(...args);
    } catch (error) {
      report(error);
    }
  }
}

function encode(op, fields, id) {
  try {
    return stringify(Object.assign({ op }, fields, { op, id, ts: Date.now() }));
  } catch (cause) {
    throw new SocketError('bad_request', `cannot be encoded: ${cause.message}`, { cause });
  }
}

function restoration(op, fields) {
  const id = freshId();
  return { id, op, fields, text: encode(op, fields, id), isRestoration: true };
}
