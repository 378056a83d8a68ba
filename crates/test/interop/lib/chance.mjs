// Random numbers that can be had again: one seed for a run, told when the run begins, and a stream of its own for
// everybody who takes part, so that what one does hangs on nobody else.

/** The seed of this run: `SEED`, or a new one. */
export const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32)) >>> 0;

/** mulberry32: small, and good enough to decide who does what when. */
export class Chance {
  #state;

  constructor(name, seed = SEED) {
    this.#state = seed;
    for (const character of name) this.#state = (Math.imul(this.#state ^ character.codePointAt(0), 0x9e3779b1) + 0x7f4a7c15) >>> 0;
  }

  /** From 0 to below 1. */
  next() {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  between(least, most) {
    return least + (most - least) * this.next();
  }

  one(items) {
    return items[Math.floor(this.next() * items.length)];
  }

  is(share) {
    return this.next() < share;
  }
}
