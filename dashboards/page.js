// The page: what the reader does changes the state, and what changed is shown.
/** @import { Address, Source, Theme } from "./types.d.ts" */
import { actionsOf } from "./actions.js";
import { Board } from "./board.js";
import { calm } from "./data/address.js";
import { save as saveInView } from "./export/save.js";
import { Session } from "./session.js";
import { decoded, encoded } from "./state/hash.js";

export class Page {
  /** @type {Session} */ #session;
  /** @type {Board} */ #board;
  /** @type {Theme} */ #theme;
  #printing = false;

  /**
   * @param {HTMLElement} root the element to fill
   * @param {Source} source
   * @param {Theme} theme
   * @param {Address} address keeps the state
   */
  constructor(root, source, theme, address) {
    this.#theme = theme;
    const host = { changed: () => this.#show(), columns: () => this.#board.columns };
    const session = new Session(source, host, decoded(address.read()));
    this.#session = session;
    const { write, href } = calm(address);
    const actions = actionsOf(session, (state) => write(encoded(state)));
    const point = (/** @type {number | null} */ step) => this.#board.pointAt(step);
    const pin = () => actions.look({ pin: this.#board.pointer === null ? null : Math.round(this.#board.pointer) });
    const save = (/** @type {string} */ kind) => saveInView(kind, session, root);
    this.#board = new Board(root, source.several, { ...actions, point, pin, save, link: href });
    address.whenChanged((text) => session.become(session.valid(decoded(text))));
    window.addEventListener("beforeprint", () => this.#print(true));
    window.addEventListener("afterprint", () => this.#print(false));
    this.#show();
  }

  /** Looks for new runs and new steps. */
  reload() {
    return this.#session.reload();
  }

  /** Whether one of the runs is being recorded. */
  get isRecording() {
    return this.#session.listing?.runs.some((run) => run.running) ?? false;
  }

  /** @param {Theme} theme */
  setTheme(theme) {
    this.#theme = theme;
    this.#show();
  }

  /** Draws for paper, or for the screen again. @param {boolean} printing */
  #print(printing) {
    this.#printing = printing;
    this.#board.setPrinting(printing);
    this.#show();
  }

  #show() {
    this.#board.show(this.#session, this.#printing ? "light" : this.#theme);
  }
}
