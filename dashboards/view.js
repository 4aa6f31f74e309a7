// The entry of `gradwatch view`: the page on its own, which follows the runs that are being recorded.
import { addressOf } from "./data/address.js";
import { follow } from "./data/follow.js";
import { served } from "./data/sources.js";
import { Page } from "./page.js";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const theme = () => (dark.matches ? "dark" : "light");
const root = /** @type {HTMLElement} */ (document.getElementById("page"));
const page = new Page(root, served(new URL("../", import.meta.url).href), theme(), addressOf(window));
dark.addEventListener("change", () => page.setTheme(theme()));
follow({
  reload: () => page.reload(),
  isRecording: () => page.isRecording,
  isSeen: () => document.visibilityState === "visible",
});
