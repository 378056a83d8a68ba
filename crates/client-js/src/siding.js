// Durable messages that the server would not take for now, while everything else goes on.

import { Alarms } from './alarms.js';
import { backoffMs } from './backoff.js';

/** Between one's repetitions. */
const PAUSES = Object.freeze({ delayMs: 1_000, delayMaxMs: 30_000, jitter: 0 });

/** For how long one is repeated, in milliseconds. */
const REPEATED_FOR_MS = 120_000;

/**
 * In the order of the asking, one at a time: what the server counts is what their sender sends, to whomever, so that those
 * behind the first would be refused like it, or overtake it.
 */
export class Siding {
  #send;
  #pauses;
  #forMs;
  #waiting = [];
  /** The one that is on its way. */
  #out = null;
  /** Of the first, in a row. */
  #refusals = 0;
  #alarms = new Alarms();

  /** `send(entry)` sends one. Entries have `asked`, their place in the order. */
  constructor({ send, pauses = PAUSES, forMs = REPEATED_FOR_MS }) {
    this.#send = send;
    this.#pauses = pauses;
    this.#forMs = forMs;
  }

  /** Takes what would overtake those that are here. False if nobody is. */
  take(entry) {
    if (this.#waiting.length === 0) return false;
    this.#insert(entry);
    return true;
  }

  /** The server would not take it: it is repeated later. False if it has been repeated for long enough. */
  refused(entry) {
    if (entry !== this.#out) this.#insert(entry);
    else this.#out = null;
    if (performance.now() >= entry.until) return false;
    this.#pause();
    return true;
  }

  /** It is answered, or of no interest any more. */
  done(entry) {
    const at = this.#waiting.indexOf(entry);
    if (at === -1) return;
    this.#waiting.splice(at, 1);
    if (at === 0) this.#refusals = 0;
    if (entry === this.#out) this.#out = null;
    this.#advance();
  }

  stop() {
    this.#waiting = [];
    this.#out = null;
    this.#refusals = 0;
    this.#alarms.clearAll();
  }

  #insert(entry) {
    const behind = this.#waiting.findIndex(({ asked }) => asked > entry.asked);
    this.#waiting.splice(behind === -1 ? this.#waiting.length : behind, 0, entry);
  }

  #pause() {
    if (this.#out !== null || this.#alarms.has('pause')) return;
    this.#refusals += 1;
    const leftMs = Math.max(0, this.#begin() - performance.now());
    this.#alarms.set('pause', Math.min(leftMs, backoffMs(this.#pauses, this.#refusals)), () => this.#advance());
  }

  /** When the time of the first is over, which begins as it comes to be the first. */
  #begin() {
    const [first] = this.#waiting;
    first.until ??= performance.now() + this.#forMs;
    return first.until;
  }

  #advance() {
    if (this.#waiting.length === 0 || this.#out !== null || this.#alarms.has('pause')) return;
    this.#begin();
    this.#out = this.#waiting[0];
    this.#send(this.#out);
  }
}
