// The timers of one owner, by name, so that all of them can be stopped at once.

export class Alarms {
  #timers = new Map();

  /** Calls `ring` in `ms` milliseconds. An alarm of the same name that is set already is replaced. */
  set(name, ms, ring) {
    this.clear(name);
    const timer = setTimeout(() => {
      this.#timers.delete(name);
      ring();
    }, ms);
    this.#timers.set(name, timer);
  }

  has(name) {
    return this.#timers.has(name);
  }

  clear(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }

  clearAll() {
    for (const name of [...this.#timers.keys()]) this.clear(name);
  }
}
