// Moves the pointer of the page through the steps shown, as a film.
/** @import { Range } from "../types.d.ts" */
import { h } from "../draw/dom.js";

const FRAME = 50; // ms
const FRAMES = 200; // of a whole film

export class Player {
  /** @type {(step: number | null) => void} */ #point;
  /** @type {() => Range | null} */ #range;
  /** @type {ReturnType<typeof setInterval> | undefined} */ #timer;
  /** The button that begins and ends the film. */
  button = h(
    "button",
    { type: "button", title: "move through the steps shown", onclick: () => this.toggle() },
    "▶ play",
  );

  /**
   * @param {(step: number | null) => void} point
   * @param {() => Range | null} range the steps shown
   */
  constructor(point, range) {
    this.#point = point;
    this.#range = range;
  }

  /** Begins the film, or ends it. */
  toggle() {
    if (this.#timer !== undefined) return this.#stop();
    let frame = 0;
    this.button.textContent = "■ stop";
    this.#timer = setInterval(() => {
      const range = this.#range();
      if (!range || frame > FRAMES) return this.#stop();
      this.#point(range[0] + ((range[1] - range[0]) * frame) / FRAMES);
      frame++;
    }, FRAME);
  }

  #stop() {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.button.textContent = "▶ play";
    this.#point(null);
  }
}
