// The page: what the reader does changes the state, and what changed is shown.
/** @import { Source, Theme } from "./types.d.ts" */
import { actionsOf } from "./actions.js";
import { Board } from "./board.js";
import { Session } from "./session.js";

export class Page {
  /** @type {Session} */ #session;
  /** @type {Board} */ #board;
  /** @type {Theme} */ #theme;

  /**
   * @param {HTMLElement} root the element to fill
   * @param {Source} source
   * @param {Theme} theme
   */
  constructor(root, source, theme) {
    this.#theme = theme;
    const session = new Session(source, { changed: () => this.#show(), columns: () => this.#board.columns });
    this.#session = session;
    const point = (/** @type {number | null} */ step) => this.#board.pointAt(step);
    this.#board = new Board(root, source.live, { ...actionsOf(session), point });
    this.#show();
  }

  /** Looks for new runs and new steps. */
  reload() {
    return this.#session.reload();
  }

  /** @param {Theme} theme */
  setTheme(theme) {
    this.#theme = theme;
    this.#show();
  }

  #show() {
    this.#board.show(this.#session, this.#theme);
  }
}
