// What a test set up, undone in the opposite order: clients go before the server they talk to.

export class Stage {
  #undo = [];

  /** Runs `undo` when the stage closes; the last one registered runs first. */
  defer(undo) {
    this.#undo.push(undo);
  }

  /** Undoes everything, also when one step fails; the first failure is thrown at the end. */
  async close() {
    const failures = [];
    while (this.#undo.length > 0) {
      try {
        await this.#undo.pop()();
      } catch (failure) {
        failures.push(failure);
      }
    }
    if (failures.length > 0) throw failures[0];
  }
}

/** A stage that closes when the test `t` ends; a process that did not stop cleanly fails that test. */
export function stageOf(t) {
  const stage = new Stage();
  t.after(() => stage.close());
  return stage;
}
