// Whether the other side is still there.

import { Alarms } from './alarms.js';

/** An alarm that rings this much too late, in milliseconds, rings in a process that has slept. */
const ASLEEP_MS = 1_000;

export class Pulse {
  #everyMs;
  #withinMs;
  #ping;
  #dead;
  #alarms = new Alarms();

  /** Calls `ping` every `everyMs`, and `dead` if nothing was heard for `withinMs` after one. */
  constructor({ everyMs, withinMs, ping, dead }) {
    this.#everyMs = everyMs;
    this.#withinMs = withinMs;
    this.#ping = ping;
    this.#dead = dead;
  }

  start() {
    this.#alarms.set('beat', this.#everyMs, () => {
      this.start();
      this.check();
    });
  }

  /** Asks now, and not only when it is time. */
  check() {
    // A question that is open already is not given more time by another one.
    if (!this.#alarms.has('answer')) this.#await(false);
    this.#ping();
  }

  /** Anything that comes is an answer. */
  heard() {
    this.#alarms.clear('answer');
  }

  stop() {
    this.#alarms.clearAll();
  }

  #await(isAgain) {
    const asked = Date.now();
    this.#alarms.set('answer', this.#withinMs, () => {
      // While we slept nothing could be heard, and an answer may lie there unread.
      if (!isAgain && Date.now() - asked > this.#withinMs + ASLEEP_MS) {
        this.#await(true);
        this.#ping();
        return;
      }
      this.stop();
      this.#dead();
    });
  }
}
