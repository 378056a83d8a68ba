// What has to be sent after a connection was made, in its order, and not more at once than a server takes.

import { Alarms } from './alarms.js';

/** Messages on their way at once. */
const WINDOW = 64;

/** After the server said that it was too much, in milliseconds. */
const PAUSE_MS = 1_000;

export class Line {
  #send;
  #skip;
  #pauseMs;
  #waiting = [];
  /** Counts places in the line. */
  #last = 0;
  #flying = new Set();
  #alarms = new Alarms();

  /** `send(entry)` sends one; `skip(entry)` is asked before, and says that it is not to be sent from here any more. */
  constructor({ send, skip, pauseMs = PAUSE_MS }) {
    this.#send = send;
    this.#skip = skip;
    this.#pauseMs = pauseMs;
  }

  /** A new connection, and what has to be sent on it. */
  begin(entries) {
    this.stop();
    for (const entry of entries) this.#append(entry);
    this.#advance();
  }

  /** One more: sent at once, unless others wait. */
  add(entry) {
    if (this.#waiting.length > 0) this.#append(entry);
    else if (!this.#skip(entry)) this.#send(entry);
  }

  /** Whether it was in this line and is not answered. */
  holds(entry) {
    return this.#flying.has(entry);
  }

  /** It is answered, or of no interest any more. */
  done(entry) {
    this.#flying.delete(entry);
    this.#advance();
  }

  /** The server could not, for now: everything pauses, and then goes on from this one's place. */
  again(entry) {
    this.#flying.delete(entry);
    const behind = this.#waiting.findIndex(({ place }) => place > entry.place);
    this.#waiting.splice(behind === -1 ? this.#waiting.length : behind, 0, entry);
    if (!this.#alarms.has('pause')) this.#alarms.set('pause', this.#pauseMs, () => this.#advance());
  }

  stop() {
    this.#waiting = [];
    this.#flying.clear();
    this.#alarms.clearAll();
  }

  #append(entry) {
    entry.place = this.#last += 1;
    this.#waiting.push(entry);
  }

  #advance() {
    while (this.#waiting.length > 0 && this.#flying.size < WINDOW && !this.#alarms.has('pause')) {
      const entry = this.#waiting.shift();
      if (this.#skip(entry)) continue;
      this.#flying.add(entry);
      this.#send(entry);
    }
  }
}
