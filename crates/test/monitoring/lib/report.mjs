// What was found: every fault is told, not only the first.

export class Report {
  #held = 0;
  #faults = 0;

  hold(condition, fault) {
    if (condition) {
      this.#held += 1;
    } else {
      this.#faults += 1;
      console.log(`FAIL  ${fault}`);
    }
    return Boolean(condition);
  }

  /** Says how it went; a run that looked at nothing is a fault. */
  end(what) {
    console.log(`${what}: ${this.#held} held, ${this.#faults} failed`);
    process.exitCode = this.#faults === 0 && this.#held > 0 ? 0 : 1;
  }
}
