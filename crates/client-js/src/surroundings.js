// What the page, the worker or the process around the client offers and tells.

export class Surroundings {
  #window;
  #document;
  #navigator;

  /** Each is optional; a test puts its own there. */
  constructor({ window, document, navigator, location } = {}) {
    this.#window = window;
    this.#document = document;
    this.#navigator = navigator;
    /** What paths are relative to, undefined outside of pages and workers. */
    this.base = location?.href;
  }

  static here() {
    const { document, navigator, location } = globalThis;
    return new Surroundings({ window: globalThis, document, navigator, location });
  }

  /** True or false as the browser has it, undefined where nobody knows. */
  get online() {
    return this.#navigator?.onLine;
  }

  /** Calls `{ offline, online, visible }` when it happens. The function that comes back ends that. */
  listen({ offline, online, visible }) {
    const document = this.#document;
    const shown = () => {
      if (document.visibilityState === 'visible') visible();
    };
    const listeners = [
      [this.#window, 'offline', () => offline()],
      [this.#window, 'online', () => online()],
      [document, 'visibilitychange', shown],
    ].filter(([target]) => typeof target?.addEventListener === 'function');
    for (const [target, name, listener] of listeners) target.addEventListener(name, listener);
    return () => {
      for (const [target, name, listener] of listeners) target.removeEventListener(name, listener);
    };
  }
}
