// The way to the server: one connection at a time, made again after each that was lost, until there is no sense in it.

import { Alarms } from './alarms.js';
import { backoffMs } from './backoff.js';
import { stringify } from './binary.js';
import { errorIn, evictionCode, expiryIn, finalFail, isExpiry, isServers, isSilence } from './closing.js';
import { Fail } from './fail.js';
import { PlainTransport } from './plain.js';
import { PollingTransport } from './polling.js';
import { Pulse } from './pulse.js';

/** A connection that lasted so long has worked, in milliseconds; one that did not may be one of many. */
const SETTLED_MS = 5_000;

/**
 * Calls `events`: `status(status, detail)`; `connected(message, isAgain)`; `message(message)` for every other one; and
 * `failed({ code, message, error?, closeCode? })`, once, after which nothing is left of it.
 */
export class Link {
  #settings;
  #surroundings;
  #events;
  #status = 'connecting';
  #isTold = false;
  #transport = null;
  #kind;
  #alarms = new Alarms();
  #pulse;
  #listening = null;
  /** Replaced at each attempt, so that what belongs to an older one can be told from it. */
  #attempt = null;
  /** Tries since a connection lasted, and whether the latest is one of them. */
  #tries = 0;
  #isCounted = false;
  #wasConnected = false;
  /** The latest session. */
  #session = null;
  /** Whether it has come back with a fresh token since a connection lasted. */
  #isRenewed = false;
  #hasFallenBack = false;
  #evicted = null;
  /** The browser says that there is no network. */
  #isAway;

  constructor(settings, surroundings, events) {
    this.#settings = settings;
    this.#surroundings = surroundings;
    this.#events = events;
    this.#kind = settings.transport;
    this.#isAway = surroundings.online === false;
    this.#pulse = new Pulse({
      everyMs: settings.heartbeatMs,
      withinMs: settings.heartbeatTimeoutMs,
      ping: () => this.#transport?.ping(),
      dead: () => this.#ended({ code: 1006, reason: 'no answer to a heartbeat', isSilence: true, local: true }),
    });
    // Not at once: whoever is called back has the client by then.
    queueMicrotask(() => this.#status === 'closed' || this.#begin());
  }

  get status() {
    return this.#status;
  }

  get kind() {
    return this.#kind;
  }

  get buffered() {
    return this.#transport?.buffered ?? 0;
  }

  /** False if it cannot be sent. */
  send(text) {
    return this.#transport?.send(text) ?? false;
  }

  forget(id) {
    this.#transport?.forget(id);
  }

  /** Ends it for good, without a word to `events`. */
  stop() {
    this.#status = 'closed';
    this.#drop({ polite: true });
    this.#listening?.();
    this.#listening = null;
  }

  #begin() {
    const { WebSocket, fetch, mayFallBack } = this.#settings;
    if (this.#kind === 'websocket' && typeof WebSocket !== 'function') {
      if (!mayFallBack) return this.#giveUp(Fail.UNSUPPORTED, 'there is no WebSocket here');
      this.#kind = 'polling';
    }
    if (this.#kind === 'polling' && typeof fetch !== 'function') return this.#giveUp(Fail.UNSUPPORTED, 'there is no fetch here');
    this.#listening = this.#surroundings.listen({
      offline: () => this.#wentAway(),
      online: () => this.#cameBack(),
      visible: () => this.#shown(),
    });
    this.#connect();
  }

  async #connect() {
    // The old one is gone before there is a new one.
    this.#drop();
    const { auth, connectTimeoutMs } = this.#settings;
    const attempt = {};
    this.#attempt = attempt;
    this.#alarms.set('connect', connectTimeoutMs, () => {
      this.#ended({ code: 1006, reason: `not connected within ${connectTimeoutMs} ms`, isBlocked: this.#transport !== null, local: true });
    });
    this.#say('connecting');
    let given;
    try {
      if (this.#attempt !== attempt) return;
      given = (await auth()) ?? undefined;
      // What cannot be said is found before there is somebody to say it to.
      stringify(given);
    } catch (error) {
      if (this.#attempt === attempt) this.#ended({ code: 1006, reason: 'auth threw', error, local: true });
      return;
    }
    if (this.#attempt === attempt) this.#open(given);
  }

  /**
   * The server is told which session was lost, until there is another: if a later one has its place by now, this one must not
   * take that back.
   */
  #resuming(auth) {
    return this.#session === null ? auth : { ...auth, resumes: this.#session };
  }

  #open(auth) {
    const { url, pollingUrl, namespace, WebSocket, fetch } = this.#settings;
    const events = {
      open: () => this.#transport.send(stringify({ op: 'connect', namespace, auth: this.#resuming(auth) })),
      heard: () => this.#pulse.heard(),
      message: (message) => this.#hear(message),
      closed: (end) => this.#ended({ ...end, isBlocked: !isServers(end.code) }),
    };
    this.#transport = this.#kind === 'polling' ? new PollingTransport({ url: pollingUrl, fetch }, events) : new PlainTransport({ url, WebSocket }, events);
  }

  #hear(message) {
    if (this.#status === 'connecting') {
      if (message.op === 'connected') this.#arrived(message);
      return;
    }
    if (message.op === 'connected') return;
    if (message.op === 'evicted') {
      // Its end follows. One that does not is not waited for any longer than for anything else.
      this.#evicted = message.reason;
      this.#pulse.stop();
      this.#alarms.set('leave', this.#settings.heartbeatTimeoutMs, () => this.#ended({ code: 1006, reason: '', local: true }));
    }
    this.#events.message(message);
  }

  #arrived(message) {
    this.#alarms.clear('connect');
    const isAgain = this.#wasConnected;
    this.#wasConnected = true;
    this.#session = typeof message.session === 'string' ? message.session : null;
    this.#alarms.set('settled', Math.max(this.#settings.reconnect.delayMaxMs, SETTLED_MS), () => {
      this.#tries = 0;
      this.#isRenewed = false;
    });
    this.#status = 'connected';
    this.#pulse.start();
    this.#events.connected(message, isAgain);
  }

  #ended({ code, reason, error, isSilence: silent = isSilence(code), isBlocked = false, local = false }) {
    const { isAuthFresh, mayFallBack, mayReconnect, reconnect } = this.#settings;
    const isLoss = this.#status === 'connected';
    const evicted = this.#evicted;
    this.#evicted = null;
    this.#drop();
    const meaning = evicted === null ? code : evictionCode(evicted);
    const final = finalFail(meaning);
    const isExpired = isLoss && isExpiry(meaning);
    const mayRenew = isExpired && isAuthFresh && mayReconnect;
    const why = reason || (evicted ?? `closed with ${code}`);
    const known = isExpired ? expiryIn(reason) : local ? undefined : errorIn(reason);
    const cause = { error: error ?? known, closeCode: local ? undefined : code };
    if (final !== undefined && !mayRenew) return this.#giveUp(final, why, cause);
    if (isBlocked && mayFallBack && this.#kind === 'websocket' && !this.#wasConnected && typeof this.#settings.fetch === 'function') {
      this.#kind = 'polling';
      this.#hasFallenBack = true;
      return this.#connect();
    }
    if (!mayReconnect) return this.#giveUp(silent ? Fail.HEARTBEAT : isLoss ? Fail.CLOSED : Fail.UNREACHABLE, why, cause);
    if (this.#isAway) return this.#wait(null, 'offline');
    if (this.#tries >= reconnect.attempts) return this.#giveUp(final ?? Fail.UNREACHABLE, why, cause);
    if (mayRenew && !this.#isRenewed) {
      this.#isRenewed = true;
      return this.#retry(true);
    }
    this.#wait(backoffMs(reconnect, this.#tries + 1), why);
  }

  /** Until the next try; `delayMs` is null while there is no network. */
  #wait(delayMs, reason) {
    if (delayMs !== null) this.#alarms.set('retry', delayMs, () => this.#retry(true));
    this.#say('waiting', { attempt: this.#tries + 1, delayMs, reason });
  }

  #retry(isCounted) {
    this.#alarms.clear('retry');
    this.#isCounted = isCounted;
    if (isCounted) this.#tries += 1;
    // Neither way led there: it may have been the server that was away, and not WebSocket that is blocked.
    if (this.#hasFallenBack && !this.#wasConnected) this.#kind = 'websocket';
    this.#connect();
  }

  #wentAway() {
    this.#isAway = true;
    this.#pulse.stop();
    if (this.#status === 'connected' || !this.#settings.mayReconnect) return;
    // A try that could not succeed is none.
    if (this.#status === 'connecting' && this.#isCounted) this.#tries -= 1;
    this.#drop();
    this.#wait(null, 'offline');
  }

  #cameBack() {
    this.#isAway = false;
    if (this.#status === 'waiting') this.#retry(false);
    if (this.#status !== 'connected' || this.#evicted !== null) return;
    this.#pulse.start();
    this.#pulse.check();
  }

  #shown() {
    if (this.#isAway && this.#surroundings.online !== true) return;
    this.#cameBack();
  }

  #giveUp(code, message, { error, closeCode } = {}) {
    this.stop();
    const failure = { code, message };
    if (error !== undefined) failure.error = error;
    if (closeCode !== undefined) failure.closeCode = closeCode;
    this.#events.failed(failure);
  }

  #say(status, detail) {
    // Going over to polling is no news.
    if (status === 'connecting' && this.#isTold && this.#status === status) return;
    this.#isTold = true;
    this.#status = status;
    this.#events.status(status, detail);
  }

  #drop(options) {
    this.#attempt = null;
    this.#alarms.clearAll();
    this.#pulse.stop();
    this.#transport?.close(options);
    this.#transport = null;
  }
}
